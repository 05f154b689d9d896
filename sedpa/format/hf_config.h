#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sedpa {

/// `rope_scaling` of a config.json, or its newer form `rope_parameters`. What a scaling method
/// needs but the file leaves out stays empty: the model code knows each method's defaults.
struct HfRopeScaling {
  std::string type = "default";  // default, linear, llama3, yarn, ...: lower case, not interpreted
  std::optional<double> factor;
  std::optional<double> low_freq_factor;
  std::optional<double> high_freq_factor;
  std::optional<std::int64_t> original_max_position_embeddings;
  std::optional<double> beta_fast;
  std::optional<double> beta_slow;
  std::optional<double> attention_factor;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
};

/// `sedpa_thin_heads` of a config.json, as it stands there (docs/formats.md).
struct HfThinHeads {
  std::vector<std::int64_t> key_widths;
  std::vector<std::int64_t> value_widths;
  std::vector<std::int64_t> rope_planes;
};

/// The fields of a Hugging Face config.json that a decoder-only model needs.
struct HfConfig {
  std::string path;          // for messages
  std::string architecture;  // architectures[0], "LlamaForCausalLM"
  std::string model_type;    // "llama"; empty when not given
  std::int64_t hidden_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;  // num_attention_heads when not given
  std::optional<std::int64_t> head_dim;
  std::int64_t intermediate_size = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  HfRopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  std::optional<bool> attention_bias;  // empty: as the architecture has it
  bool mlp_bias = false;
  std::optional<std::int64_t> sliding_window;  // empty also when the file says null
  std::optional<bool> use_sliding_window;
  std::string hidden_act = "silu";
  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_ids;  // a number in the file is a list of one
  std::optional<HfThinHeads> thin_heads;
};

/// Reads `directory`/config.json. Throws Error naming the file, the field, what was found and what
/// was expected: every size is a positive integer below 2^31, every factor finite.
[[nodiscard]] HfConfig load_hf_config(const std::string& directory);
/// The same from text; `name` stands for the path.
[[nodiscard]] HfConfig parse_hf_config(std::string_view json, const std::string& name);

}  // namespace sedpa
