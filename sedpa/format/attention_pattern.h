#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sedpa {

/// Which KV heads need the whole past: a gate for each, as `identify` or DuoAttention's training
/// learned it, and the window that the streaming heads were learned with.
struct AttentionPattern {
  int layers = 0;
  int kv_heads = 0;
  std::vector<double> gates;              // [layers, kv_heads], in [0, 1]
  int sink_size = 0;                      // tokens
  int recent_size = 0;                    // tokens, >= 1
  int query_heads = 0;                    // of each layer, where their scores are known
  std::vector<double> query_scores = {};  // [layers, query_heads], finite; empty: not known
  std::string config_json = {};           // the whole config.json as read: how the pattern was made

  [[nodiscard]] double gate(int layer, int kv_head) const {
    return gates[static_cast<std::size_t>(layer) * static_cast<std::size_t>(kv_heads) +
                 static_cast<std::size_t>(kv_head)];
  }
};

/// Reads `full_attention_heads.tsv` (a layer a row, tab separated) and `config.json` from a
/// directory: the format of DuoAttention (Xiao et al. 2024, mit-han-lab/duo-attention). Training
/// there leaves gates a little outside of [0, 1]; they are clipped, as its own loader does. Where a
/// method has scores of query heads, `query_head_scores.tsv` holds them in the same form.
/// Throws Error naming the file, line or field, what was found and what was expected.
[[nodiscard]] AttentionPattern load_attention_pattern(const std::string& directory);
/// The same from the texts of the two files; `directory` stands in messages.
[[nodiscard]] AttentionPattern parse_attention_pattern(std::string_view tsv,
                                                       std::string_view config_json,
                                                       const std::string& directory);

/// Writes the files, each under a temporary name and then renamed; makes the directory when it is
/// not there. `config_json_extra` is empty or a JSON object whose fields (how the pattern was made)
/// go into config.json beside sink_size and recent_size. Gates are written so that they read back
/// to the same number. Throws Error.
void save_attention_pattern(const std::string& directory, const AttentionPattern& pattern,
                            const std::string& config_json_extra = "");

}  // namespace sedpa
