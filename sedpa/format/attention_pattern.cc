#include "sedpa/format/attention_pattern.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <system_error>

#include "sedpa/core/fail.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/format/head_table.h"
#include "sedpa/format/json.h"
#include "sedpa/format/mapped_file.h"

namespace sedpa {
namespace {

using nlohmann::json;

constexpr const char* kGatesFile = "full_attention_heads.tsv";
constexpr const char* kScoresFile = "query_head_scores.tsv";
constexpr const char* kConfigFile = "config.json";
constexpr std::size_t kLongestConfig = std::size_t{4} << 20;  // bytes of config.json

std::string join(const std::string& directory, const char* file) {
  return (std::filesystem::path(directory) / file).string();
}

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

int parse_tokens(const json& config, const char* key, int lowest, const std::string& path) {
  const auto found = config.find(key);
  if (found == config.end()) fail("{}: no {}, expected a number of tokens", path, key);
  constexpr int kHighest = std::numeric_limits<std::int32_t>::max();
  if (!found->is_number_integer()) {
    fail("{}: {} is of type {}, expected an integer", path, key, found->type_name());
  }
  const bool above = found->is_number_unsigned() && found->get<std::uint64_t>() > kHighest;
  if (above || found->get<std::int64_t>() < lowest) {
    fail("{}: {} is {}, expected {} to {}", path, key, found->dump(), lowest, kHighest);
  }
  return found->get<int>();
}

void check_scores(const AttentionPattern& pattern, const std::string& path) {
  if (pattern.query_heads < 1 || pattern.query_heads % pattern.kv_heads != 0 ||
      pattern.query_scores.size() != static_cast<std::size_t>(pattern.layers) *
                                         static_cast<std::size_t>(pattern.query_heads)) {
    fail(
        "{}: {} scores for {} query heads a layer, expected {} layers of a multiple of {} KV heads",
        path, pattern.query_scores.size(), pattern.query_heads, pattern.layers, pattern.kv_heads);
  }
}

void check(const AttentionPattern& pattern, const std::string& directory) {
  const bool shaped = pattern.layers > 0 && pattern.kv_heads > 0 &&
                      pattern.gates.size() == static_cast<std::size_t>(pattern.layers) *
                                                  static_cast<std::size_t>(pattern.kv_heads);
  if (!shaped) {
    fail("{}: a pattern of {} layers and {} KV heads with {} gates", directory, pattern.layers,
         pattern.kv_heads, pattern.gates.size());
  }
  for (const double gate : pattern.gates) {
    if (!(gate >= 0 && gate <= 1)) fail("{}: a gate of {}, expected 0 to 1", directory, gate);
  }
  if (!pattern.query_scores.empty()) check_scores(pattern, directory);
  if (pattern.sink_size < 0 || pattern.recent_size < 1) {
    fail("{}: a window of {} first and {} last tokens, expected at least 0 and 1", directory,
         pattern.sink_size, pattern.recent_size);
  }
}

}  // namespace

AttentionPattern load_attention_pattern(const std::string& directory) {
  const MappedFile gates = MappedFile::open(join(directory, kGatesFile));
  const MappedFile config = MappedFile::open(join(directory, kConfigFile));
  AttentionPattern pattern = parse_attention_pattern(text_of(gates), text_of(config), directory);
  const std::string scores_path = join(directory, kScoresFile);
  if (std::error_code error; std::filesystem::exists(scores_path, error)) {
    HeadTable scores = parse_head_table(text_of(MappedFile::open(scores_path)), scores_path);
    pattern.query_heads = scores.heads;
    pattern.query_scores = std::move(scores.numbers);
    check_scores(pattern, scores_path);
  }
  return pattern;
}

AttentionPattern parse_attention_pattern(std::string_view tsv, std::string_view config_json,
                                         const std::string& directory) {
  HeadTable gates = parse_head_table(tsv, join(directory, kGatesFile));
  AttentionPattern pattern{
      .layers = gates.layers, .kv_heads = gates.heads, .gates = std::move(gates.numbers)};
  for (double& gate : pattern.gates) gate = gate > 0 ? std::min(gate, 1.0) : 0.0;
  const std::string path = join(directory, kConfigFile);
  const json config = parse_json(config_json, path, kLongestConfig);
  if (!config.is_object()) fail("{}: is {}, expected an object", path, config.type_name());
  pattern.sink_size = parse_tokens(config, "sink_size", 0, path);
  pattern.recent_size = parse_tokens(config, "recent_size", 1, path);
  pattern.config_json = config_json;
  return pattern;
}

void save_attention_pattern(const std::string& directory, const AttentionPattern& pattern,
                            const std::string& config_json_extra) {
  check(pattern, directory);
  nlohmann::ordered_json config = {{"sink_size", pattern.sink_size},
                                   {"recent_size", pattern.recent_size}};
  if (!config_json_extra.empty()) {
    const std::string name = directory + ": the description of the pattern";
    const nlohmann::ordered_json extra = parse_ordered_json(config_json_extra, name);
    if (!extra.is_object()) fail("{} is not a JSON object", name);
    for (const auto& [key, value] : extra.items()) {
      if (!config.contains(key)) config[key] = value;
    }
  }
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) fail("{}: cannot make the directory: {}", directory, error.message());
  AtomicFile gates_file(join(directory, kGatesFile));
  AtomicFile config_file(join(directory, kConfigFile));
  std::optional<AtomicFile> scores_file;
  gates_file.write(format_head_table(pattern.gates, pattern.kv_heads));
  config_file.write(json_text(config, 2) + "\n");
  // Scores of a pattern that stood here before are not this one's.
  std::filesystem::remove(join(directory, kScoresFile), error);
  if (!pattern.query_scores.empty()) {
    scores_file.emplace(join(directory, kScoresFile));
    scores_file->write(format_head_table(pattern.query_scores, pattern.query_heads));
  }
  gates_file.commit();
  config_file.commit();
  if (scores_file) scores_file->commit();
}

}  // namespace sedpa
