#include "sedpa/format/hf_config.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include "sedpa/core/fail.h"
#include "sedpa/format/json.h"
#include "sedpa/format/mapped_file.h"
#include "sedpa/format/printable.h"

namespace sedpa {
namespace {

using nlohmann::json;

/// Typed fields of one JSON object; null counts as absent, as transformers has it.
class Fields {
 public:
  Fields(const json& object, const std::string& file, std::string prefix = "")
      : object_(object), file_(file), prefix_(std::move(prefix)) {
    if (!object.is_object()) {
      fail("{}: {} is {}, expected an object", file_,
           prefix_.empty() ? "the text" : prefix_.substr(0, prefix_.size() - 1),
           object.type_name());
    }
  }

  [[nodiscard]] const json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  [[nodiscard]] std::optional<std::int64_t> integer(const char* key, std::int64_t lowest) const {
    const json* const value = find(key);
    if (value == nullptr) return std::nullopt;
    return as_integer(key, *value, lowest);
  }

  [[nodiscard]] std::int64_t require_size(const char* key) const {
    const auto value = integer(key, 1);
    if (!value) fail("{}: no {}{}, expected an integer", file_, prefix_, key);
    return *value;
  }

  [[nodiscard]] std::optional<double> number(const char* key) const {
    const json* const value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) mistyped(key, *value, "a number");
    const double number = value->get<double>();
    if (!std::isfinite(number)) fail("{}: {}{} is not finite", file_, prefix_, key);
    return number;
  }

  [[nodiscard]] std::optional<double> positive(const char* key) const {
    const auto value = number(key);
    if (value && *value <= 0) {
      fail("{}: {}{} is {}, expected a number above 0", file_, prefix_, key, *value);
    }
    return value;
  }

  [[nodiscard]] std::optional<bool> boolean(const char* key) const {
    const json* const value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) mistyped(key, *value, "true or false");
    return value->get<bool>();
  }

  [[nodiscard]] std::optional<std::string> string(const char* key) const {
    const json* const value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) mistyped(key, *value, "a string");
    return value->get<std::string>();
  }

  /// A number, or a list of numbers.
  [[nodiscard]] std::vector<std::int64_t> integers(const char* key) const {
    const json* const value = find(key);
    if (value == nullptr) return {};
    if (!value->is_array()) return {as_integer(key, *value, 0)};
    std::vector<std::int64_t> numbers;
    for (const json& element : *value) numbers.push_back(as_integer(key, element, 0));
    return numbers;
  }

  [[nodiscard]] std::vector<std::int64_t> require_integers(const char* key) const {
    const json* const value = find(key);
    if (value == nullptr) fail("{}: no {}{}, expected a list of integers", file_, prefix_, key);
    if (!value->is_array()) mistyped(key, *value, "a list of integers");
    return integers(key);
  }

  [[noreturn]] void mistyped(const char* key, const json& value, const char* expected) const {
    fail("{}: {}{} is of type {}, expected {}", file_, prefix_, key, value.type_name(), expected);
  }

 private:
  [[nodiscard]] std::int64_t as_integer(const char* key, const json& value,
                                        std::int64_t lowest) const {
    constexpr std::int64_t kHighest = std::numeric_limits<std::int32_t>::max();
    if (!value.is_number_integer()) mistyped(key, value, "an integer");
    const bool above = value.is_number_unsigned() &&
                       value.get<std::uint64_t>() > static_cast<std::uint64_t>(kHighest);
    if (above || value.get<std::int64_t>() < lowest) {
      fail("{}: {}{} is {}, expected {} to {}", file_, prefix_, key, json_text(value), lowest,
           kHighest);
    }
    return value.get<std::int64_t>();
  }

  const json& object_;
  const std::string& file_;
  std::string prefix_;  // "rope_scaling."
};

void read_rope_scaling(const Fields& fields, HfRopeScaling& scaling) {
  // "type" is the older spelling of "rope_type".
  const auto type = fields.string("rope_type");
  scaling.type = type ? *type : fields.string("type").value_or(scaling.type);
  scaling.factor = fields.positive("factor");
  scaling.low_freq_factor = fields.positive("low_freq_factor");
  scaling.high_freq_factor = fields.positive("high_freq_factor");
  scaling.original_max_position_embeddings = fields.integer("original_max_position_embeddings", 1);
  scaling.beta_fast = fields.positive("beta_fast");
  scaling.beta_slow = fields.positive("beta_slow");
  scaling.attention_factor = fields.positive("attention_factor");
  scaling.mscale = fields.number("mscale");
  scaling.mscale_all_dim = fields.number("mscale_all_dim");
}

/// transformers 5 keeps the RoPE base and scaling in `rope_parameters`, earlier ones in
/// `rope_theta` and `rope_scaling`; the newer wins where both stand.
void read_rope(const json& root, const Fields& fields, HfConfig& config) {
  if (const auto theta = fields.positive("rope_theta")) config.rope_theta = *theta;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (fields.find(key) == nullptr) continue;
    const Fields scaling(root[key], config.path, std::string(key) + ".");
    read_rope_scaling(scaling, config.rope_scaling);
    if (const auto theta = scaling.positive("rope_theta")) config.rope_theta = *theta;
    for (const auto& [name, value] : root[key].items()) {
      if (value.is_object()) {
        fail("{}: {}.{} is an object: RoPE that differs between layers is not supported",
             config.path, key, printable(name));
      }
    }
  }
}

void read_thin_heads(const json& root, const Fields& fields, HfConfig& config) {
  const char* const key = "sedpa_thin_heads";
  if (fields.find(key) == nullptr) return;
  const Fields thin(root[key], config.path, std::string(key) + ".");
  config.thin_heads = {.key_widths = thin.require_integers("key_widths"),
                       .value_widths = thin.require_integers("value_widths"),
                       .rope_planes = thin.require_integers("rope_planes")};
}

std::string read_architecture(const Fields& fields, const std::string& file) {
  const json* const list = fields.find("architectures");
  if (list == nullptr) fail("{}: no architectures, expected a list with a name", file);
  if (!list->is_array() || list->empty() || !list->front().is_string()) {
    fail("{}: architectures is {}, expected a list with a name", file,
         printable(list->dump(-1, ' ', false, json::error_handler_t::replace)));
  }
  return list->front().get<std::string>();
}

}  // namespace

HfConfig load_hf_config(const std::string& directory) {
  const std::string path = (std::filesystem::path(directory) / "config.json").string();
  const MappedFile file = MappedFile::open(path);
  const std::span<const std::byte> bytes = file.bytes();
  return parse_hf_config({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

HfConfig parse_hf_config(std::string_view text, const std::string& name) {
  constexpr std::size_t kMost = std::size_t{4} << 20;  // bytes; real ones have about a thousand
  const json root = parse_json(text, name, kMost);
  const Fields fields(root, name);
  HfConfig config;
  config.path = name;
  config.architecture = read_architecture(fields, name);
  config.model_type = fields.string("model_type").value_or("");
  config.hidden_size = fields.require_size("hidden_size");
  config.num_hidden_layers = fields.require_size("num_hidden_layers");
  config.num_attention_heads = fields.require_size("num_attention_heads");
  config.num_key_value_heads =
      fields.integer("num_key_value_heads", 1).value_or(config.num_attention_heads);
  config.head_dim = fields.integer("head_dim", 1);
  config.intermediate_size = fields.require_size("intermediate_size");
  config.vocab_size = fields.require_size("vocab_size");
  config.max_position_embeddings = fields.require_size("max_position_embeddings");
  config.rms_norm_eps = fields.positive("rms_norm_eps").value_or(config.rms_norm_eps);
  read_rope(root, fields, config);
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings").value_or(false);
  config.attention_bias = fields.boolean("attention_bias");
  config.mlp_bias = fields.boolean("mlp_bias").value_or(false);
  config.sliding_window = fields.integer("sliding_window", 1);
  config.use_sliding_window = fields.boolean("use_sliding_window");
  config.hidden_act = fields.string("hidden_act").value_or(config.hidden_act);
  config.bos_token_id = fields.integer("bos_token_id", 0);
  config.eos_token_ids = fields.integers("eos_token_id");
  read_thin_heads(root, fields, config);
  return config;
}

}  // namespace sedpa
