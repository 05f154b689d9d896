#include "sedpa/format/attention_pattern.h"

#include <fmt/format.h>
#include <algorithm>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <limits>
#include <system_error>

#include "sedpa/core/fail.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/format/json.h"
#include "sedpa/format/mapped_file.h"
#include "sedpa/format/printable.h"

namespace sedpa {
namespace {

using nlohmann::json;

constexpr const char* kGatesFile = "full_attention_heads.tsv";
constexpr const char* kConfigFile = "config.json";
constexpr std::size_t kLongest = std::size_t{4} << 20;  // bytes of either file

std::string join(const std::string& directory, const char* file) {
  return (std::filesystem::path(directory) / file).string();
}

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

/// Takes everything up to `separator` off the front of `rest`, and the separator.
std::string_view take(std::string_view& rest, char separator) {
  const std::size_t length = std::min(rest.find(separator), rest.size());
  const std::string_view piece = rest.substr(0, length);
  rest.remove_prefix(std::min(length + 1, rest.size()));
  return piece;
}

std::string_view trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \r") - first + 1);
}

double parse_gate(std::string_view field, const std::string& path, int line, int column) {
  const std::string_view text = trim(field);
  double gate = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), gate);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(gate)) {
    fail("{}: line {}, column {} is {}, expected a finite number", path, line, column,
         printable(field));
  }
  return gate > 0 ? std::min(gate, 1.0) : 0.0;
}

void parse_gates(std::string_view tsv, const std::string& path, AttentionPattern& pattern) {
  if (tsv.size() > kLongest) {
    fail("{}: {} bytes, expected at most {}", path, tsv.size(), kLongest);
  }
  tsv = tsv.substr(0, tsv.find_last_not_of("\r\n ") + 1);  // line ends after the last row
  if (tsv.empty()) fail("{}: is empty, expected a row of gates for each layer", path);
  while (!tsv.empty()) {
    std::string_view line = take(tsv, '\n');
    ++pattern.layers;
    int columns = 1;
    for (; line.find('\t') != std::string_view::npos; ++columns) {
      pattern.gates.push_back(parse_gate(take(line, '\t'), path, pattern.layers, columns));
    }
    pattern.gates.push_back(parse_gate(line, path, pattern.layers, columns));
    if (pattern.layers == 1) pattern.kv_heads = columns;
    if (columns != pattern.kv_heads) {
      fail("{}: line {} has {} gates, expected {} as in the first", path, pattern.layers, columns,
           pattern.kv_heads);
    }
  }
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
  if (pattern.sink_size < 0 || pattern.recent_size < 1) {
    fail("{}: a window of {} first and {} last tokens, expected at least 0 and 1", directory,
         pattern.sink_size, pattern.recent_size);
  }
}

}  // namespace

AttentionPattern load_attention_pattern(const std::string& directory) {
  const MappedFile gates = MappedFile::open(join(directory, kGatesFile));
  const MappedFile config = MappedFile::open(join(directory, kConfigFile));
  return parse_attention_pattern(text_of(gates), text_of(config), directory);
}

AttentionPattern parse_attention_pattern(std::string_view tsv, std::string_view config_json,
                                         const std::string& directory) {
  AttentionPattern pattern;
  parse_gates(tsv, join(directory, kGatesFile), pattern);
  const std::string path = join(directory, kConfigFile);
  const json config = parse_json(config_json, path, kLongest);
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
    // Parsed once with bounds, then again with the fields in the order they were given.
    const std::string name = directory + ": the description of the pattern";
    if (!parse_json(config_json_extra, name).is_object()) fail("{} is not a JSON object", name);
    const auto extra = nlohmann::ordered_json::parse(config_json_extra);
    for (const auto& [key, value] : extra.items()) {
      if (!config.contains(key)) config[key] = value;
    }
  }
  std::string tsv;
  for (std::size_t i = 0; i < pattern.gates.size(); ++i) {
    const bool last = (i + 1) % static_cast<std::size_t>(pattern.kv_heads) == 0;
    fmt::format_to(std::back_inserter(tsv), "{}{}", pattern.gates[i], last ? '\n' : '\t');
  }

  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) fail("{}: cannot make the directory: {}", directory, error.message());
  AtomicFile gates_file(join(directory, kGatesFile));
  AtomicFile config_file(join(directory, kConfigFile));
  gates_file.write(tsv);
  config_file.write(config.dump(2) + "\n");
  gates_file.commit();
  config_file.commit();
}

}  // namespace sedpa
