#include "sedpa/model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include "sedpa/core/fail.h"
#include "sedpa/format/printable.h"
#include "sedpa/format/quant_blocks.h"
#include "sedpa/model/thin_heads.h"

namespace sedpa {
namespace {

struct ArchitectureName {
  std::string_view gguf;  // general.architecture; empty: not an architecture of its own there
  std::string_view huggingface;  // architectures[0]
  std::string_view ours;
};

// GGUF stores Llama and Mistral (and SmolLM2, which is a Llama) under one name.
constexpr std::array<ArchitectureName, 4> kArchitectures = {{
    {"llama", "LlamaForCausalLM", "llama"},
    {"", "MistralForCausalLM", "mistral"},
    {"qwen2", "Qwen2ForCausalLM", "qwen2"},
    {"qwen3", "Qwen3ForCausalLM", "qwen3"},
}};

std::string supported(std::string_view ArchitectureName::*member) {
  std::string list;
  for (const ArchitectureName& architecture : kArchitectures) {
    if ((architecture.*member).empty()) continue;
    if (!list.empty()) list += ", ";
    list += architecture.*member;
  }
  return list;
}

// The architecture whose `member` is `name`; throws naming those that are supported.
const ArchitectureName& find_architecture(std::string_view ArchitectureName::*member,
                                          const std::string& name, const std::string& path) {
  for (const ArchitectureName& architecture : kArchitectures) {
    if (!name.empty() && architecture.*member == name) return architecture;
  }
  fail("{}: architecture {} is not supported, expected one of {}", path, printable(name),
       supported(member));
}

std::int32_t to_size(const std::string& path, std::string_view field, std::uint64_t value) {
  // Every product of two sizes must fit 63 bits with room for bytes.
  constexpr std::uint64_t kLargest = std::uint64_t{1} << 28;
  if (value == 0 || value > kLargest) {
    fail("{}: {} is {}, expected 1 to {}", path, field, value, kLargest);
  }
  return static_cast<std::int32_t>(value);
}

void check_heads(const ModelConfig& c) {
  if (c.query_heads % c.kv_heads != 0) {
    fail("{}: {} query heads cannot share {} KV heads, expected a multiple", c.path, c.query_heads,
         c.kv_heads);
  }
  if (c.head_dim % 2 != 0 || c.head_dim > 1024) {
    fail("{}: head size is {}, expected an even number up to 1024", c.path, c.head_dim);
  }
  if (c.rope_dim % 2 != 0 || c.rope_dim > c.head_dim) {
    fail("{}: RoPE rotates {} dimensions of a head, expected an even number up to the head size {}",
         c.path, c.rope_dim, c.head_dim);
  }
  const auto attention_width = std::int64_t{c.query_heads} * c.head_dim;
  if (attention_width > std::numeric_limits<std::int32_t>::max() / 4) {
    fail("{}: {} query heads of size {} are more than this program can hold", c.path, c.query_heads,
         c.head_dim);
  }
  if (!(c.rope_base > 1) || !std::isfinite(c.rope_base)) {
    fail("{}: RoPE base is {}, expected a number above 1", c.path, c.rope_base);
  }
  if (!(c.norm_epsilon >= 0) || !(c.norm_epsilon < 1)) {
    fail("{}: RMS norm epsilon is {}, expected 0 to 1", c.path, c.norm_epsilon);
  }
}

void check_scaling(const ModelConfig& c) {
  const RopeScaling& s = c.rope_scaling;
  if (s.method == RopeScaling::Method::none) return;
  const auto positive = [](double value) { return value > 0 && std::isfinite(value); };
  if (!positive(s.factor)) {
    fail("{}: RoPE scaling factor is {}, expected a number above 0", c.path, s.factor);
  }
  if (s.method == RopeScaling::Method::linear) return;
  if (!positive(s.original_context)) {
    fail("{}: RoPE scaling's original context is {}, expected a number above 0", c.path,
         s.original_context);
  }
  if (s.method == RopeScaling::Method::llama3 &&
      (!positive(s.low_frequency) || !(s.high_frequency > s.low_frequency))) {
    fail("{}: RoPE scaling's frequency factors are {} and {}, expected 0 < low < high", c.path,
         s.low_frequency, s.high_frequency);
  }
  if (s.method == RopeScaling::Method::yarn &&
      (!positive(s.beta_slow) || !positive(s.beta_fast) || !std::isfinite(s.attention_factor))) {
    fail(
        "{}: YaRN's beta_fast, beta_slow and attention factor are {}, {} and {}, expected positive "
        "numbers",
        c.path, s.beta_fast, s.beta_slow, s.attention_factor);
  }
}

ThinHeads gguf_thin_heads(const GgufFile& file, const ModelConfig& config) {
  const std::string prefix = "sedpa.thin.";
  const std::string keys[] = {prefix + "key_widths", prefix + "value_widths",
                              prefix + "rope_planes"};
  if (std::none_of(std::begin(keys), std::end(keys),
                   [&](const std::string& key) { return file.has(key); })) {
    return {};
  }
  return read_thin_heads(config, {.prefix = prefix,
                                  .key_widths = file.require_ints(keys[0]),
                                  .value_widths = file.require_ints(keys[1]),
                                  .rope_planes = file.require_ints(keys[2])});
}

RopeScaling gguf_scaling(const GgufFile& file, const std::string& prefix, double context) {
  RopeScaling scaling;
  const std::string type = file.find_string(prefix + "rope.scaling.type").value_or("none");
  if (type == "none" || type.empty()) return scaling;
  if (type == "linear") {
    scaling.method = RopeScaling::Method::linear;
  } else if (type == "yarn") {
    scaling.method = RopeScaling::Method::yarn;
  } else {
    fail("{}: {}rope.scaling.type is {}, expected none, linear or yarn", file.path(), prefix,
         printable(type));
  }
  scaling.factor = file.find_float(prefix + "rope.scaling.factor").value_or(1.0);
  scaling.original_context =
      static_cast<double>(file.find_uint(prefix + "rope.scaling.original_context_length")
                              .value_or(static_cast<std::uint64_t>(context)));
  scaling.beta_fast =
      file.find_float(prefix + "rope.scaling.yarn_beta_fast").value_or(scaling.beta_fast);
  scaling.beta_slow =
      file.find_float(prefix + "rope.scaling.yarn_beta_slow").value_or(scaling.beta_slow);
  if (const auto factor = file.find_float(prefix + "rope.scaling.attn_factor")) {
    // GGUF's factor multiplies YaRN's own temperature.
    scaling.attention_factor =
        *factor * (scaling.factor > 1 ? 0.1 * std::log(scaling.factor) + 1.0 : 1.0);
  }
  return scaling;
}

// A head count that may be stored once or for each layer; layers that differ are not supported.
std::uint64_t gguf_heads(const GgufFile& file, const std::string& key) {
  const GgufMetadata* entry = file.find(key);
  if (entry != nullptr && entry->type == GgufType::array) {
    const std::vector<std::int64_t>& counts = file.require_ints(key);
    const bool equal =
        std::adjacent_find(counts.begin(), counts.end(), std::not_equal_to<>()) == counts.end();
    if (counts.empty() || counts.front() < 0 || !equal) {
      fail("{}: {} differs from layer to layer, expected one number for all", file.path(), key);
    }
    return static_cast<std::uint64_t>(counts.front());
  }
  return file.require_uint(key);
}

std::vector<float> read_floats(const TensorInfo& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.count()));
  dequantize_row(tensor.dtype, tensor.data.data(), tensor.count(), values.data());
  return values;
}

double mscale(double factor, double weight) {
  return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
}

RopeScaling huggingface_scaling(const HfConfig& hf) {
  const HfRopeScaling& from = hf.rope_scaling;
  RopeScaling to;
  if (from.type == "default") return to;
  if (from.type == "linear") {
    to.method = RopeScaling::Method::linear;
  } else if (from.type == "llama3") {
    to.method = RopeScaling::Method::llama3;
  } else if (from.type == "yarn") {
    to.method = RopeScaling::Method::yarn;
  } else {
    fail("{}: RoPE scaling {} is not supported, expected default, linear, llama3 or yarn", hf.path,
         printable(from.type));
  }
  to.original_context = static_cast<double>(
      from.original_max_position_embeddings.value_or(hf.max_position_embeddings));
  if (from.factor) {
    to.factor = *from.factor;
  } else if (to.method == RopeScaling::Method::yarn && to.original_context > 0) {
    to.factor = static_cast<double>(hf.max_position_embeddings) / to.original_context;
  } else {
    fail("{}: RoPE scaling {} has no factor", hf.path, printable(from.type));
  }
  to.low_frequency = from.low_freq_factor.value_or(to.low_frequency);
  to.high_frequency = from.high_freq_factor.value_or(to.high_frequency);
  to.beta_fast = from.beta_fast.value_or(to.beta_fast);
  to.beta_slow = from.beta_slow.value_or(to.beta_slow);
  if (from.attention_factor) {
    to.attention_factor = *from.attention_factor;
  } else if (from.mscale && from.mscale_all_dim && *from.mscale != 0 && *from.mscale_all_dim != 0) {
    to.attention_factor = mscale(to.factor, *from.mscale) / mscale(to.factor, *from.mscale_all_dim);
  }
  return to;
}

}  // namespace

AttentionShape ModelConfig::attention() const {
  return {.query_heads = query_heads,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(head_dim))};
}

ModelConfig config_from_gguf(const GgufFile& file) {
  const std::string found = file.require_string("general.architecture");
  const ArchitectureName& architecture =
      find_architecture(&ArchitectureName::gguf, found, file.path());
  const std::string prefix = found + ".";
  const auto size = [&](const char* field) {
    return to_size(file.path(), prefix + field, file.require_uint(prefix + field));
  };

  ModelConfig c;
  c.path = file.path();
  c.name = file.find_string("general.name").value_or("");
  c.architecture = architecture.ours;
  c.layers = size("block_count");
  c.width = size("embedding_length");
  c.mlp_width = size("feed_forward_length");
  c.trained_context = size("context_length");
  const std::string heads_key = prefix + "attention.head_count";
  const std::string kv_heads_key = prefix + "attention.head_count_kv";
  c.query_heads = to_size(c.path, heads_key, gguf_heads(file, heads_key));
  c.kv_heads = file.has(kv_heads_key)
                   ? to_size(c.path, kv_heads_key, gguf_heads(file, kv_heads_key))
                   : c.query_heads;
  const std::string key_length = prefix + "attention.key_length";
  const std::string value_length = prefix + "attention.value_length";
  if (const auto length = file.find_uint(key_length)) {
    c.head_dim = to_size(c.path, key_length, *length);
  } else {
    if (c.width % c.query_heads != 0) {
      fail("{}: width {} is no multiple of {} query heads and {} is absent", c.path, c.width,
           c.query_heads, key_length);
    }
    c.head_dim = c.width / c.query_heads;
  }
  const std::uint64_t values = file.find_uint(value_length).value_or(c.head_dim);
  if (values != static_cast<std::uint64_t>(c.head_dim)) {
    fail("{}: {} is {}, expected the key length {}", c.path, value_length, values, c.head_dim);
  }
  if (file.find_uint(prefix + "expert_count").value_or(0) > 0) {
    fail("{}: mixtures of experts are not supported, expected {}expert_count 0", c.path, prefix);
  }
  c.norm_epsilon =
      static_cast<float>(file.require_float(prefix + "attention.layer_norm_rms_epsilon"));
  c.query_key_norm = architecture.ours == "qwen3";
  if (const auto window = file.find_uint(prefix + "attention.sliding_window"); window && *window) {
    c.sliding_window = to_size(c.path, prefix + "attention.sliding_window", *window);
  }

  // GGUF permutes Llama's query and key rows so that rotating pairs are neighbours.
  c.rope_style = architecture.ours == "llama" ? RopeStyle::neighbours : RopeStyle::halves;
  c.rope_dim = to_size(c.path, prefix + "rope.dimension_count",
                       file.find_uint(prefix + "rope.dimension_count").value_or(c.head_dim));
  c.rope_base = file.find_float(prefix + "rope.freq_base").value_or(10000.0);
  c.rope_scaling = gguf_scaling(file, prefix, static_cast<double>(c.trained_context));
  if (const TensorInfo* divisors = file.find_tensor("rope_freqs.weight")) {
    c.rope_divisors = read_floats(*divisors);
    for (const float divisor : c.rope_divisors) {
      if (!(divisor > 0) || !std::isfinite(divisor)) {
        fail("{}: rope_freqs.weight holds {}, expected positive numbers", c.path, divisor);
      }
    }
  }
  if (const auto vocab = file.find_uint(prefix + "vocab_size")) {
    c.vocab_size = to_size(c.path, prefix + "vocab_size", *vocab);
  } else if (const TensorInfo* table = file.find_tensor("token_embd.weight")) {
    c.vocab_size =
        to_size(c.path, "rows of token_embd.weight", static_cast<std::uint64_t>(table->rows()));
  } else {
    fail("{}: tensor token_embd.weight is missing", c.path);
  }
  check_heads(c);
  check_scaling(c);
  c.thin = gguf_thin_heads(file, c);
  return c;
}

ModelConfig config_from_huggingface(const HfConfig& hf) {
  const ArchitectureName& architecture =
      find_architecture(&ArchitectureName::huggingface, hf.architecture, hf.path);
  const auto size = [&](const char* field, std::int64_t value) {
    return to_size(hf.path, field, static_cast<std::uint64_t>(std::max<std::int64_t>(value, 0)));
  };
  ModelConfig c;
  c.path = hf.path;
  c.architecture = architecture.ours;
  c.layers = size("num_hidden_layers", hf.num_hidden_layers);
  c.width = size("hidden_size", hf.hidden_size);
  c.query_heads = size("num_attention_heads", hf.num_attention_heads);
  c.kv_heads = size("num_key_value_heads", hf.num_key_value_heads);
  c.mlp_width = size("intermediate_size", hf.intermediate_size);
  c.vocab_size = size("vocab_size", hf.vocab_size);
  c.trained_context = size("max_position_embeddings", hf.max_position_embeddings);
  if (!hf.head_dim && c.width % c.query_heads != 0) {
    fail("{}: hidden_size {} is no multiple of {} attention heads and head_dim is absent", c.path,
         c.width, c.query_heads);
  }
  // Qwen3's head size stands apart from its width: 128 when the file leaves it out.
  const std::int64_t derived = architecture.ours == "qwen3" ? 128 : c.width / c.query_heads;
  c.head_dim = size("head_dim", hf.head_dim.value_or(derived));
  c.norm_epsilon = static_cast<float>(hf.rms_norm_eps);
  c.query_key_norm = architecture.ours == "qwen3";
  c.tied_output = hf.tie_word_embeddings;
  const bool qwen = architecture.ours == "qwen2" || architecture.ours == "qwen3";
  if (qwen && hf.use_sliding_window.value_or(false)) {
    fail("{}: use_sliding_window is true, but windows in some layers only are not supported",
         c.path);
  }
  if (architecture.ours == "mistral" && hf.sliding_window) {
    c.sliding_window = size("sliding_window", *hf.sliding_window);
  }
  if (hf.hidden_act != "silu") {
    fail("{}: hidden_act is {}, expected silu", c.path, printable(hf.hidden_act));
  }
  if (hf.mlp_bias) fail("{}: mlp_bias is true, but biases in the MLP are not supported", c.path);
  c.rope_style = RopeStyle::halves;
  c.rope_dim = c.head_dim;
  c.rope_base = hf.rope_theta;
  c.rope_scaling = huggingface_scaling(hf);
  check_heads(c);
  check_scaling(c);
  if (hf.thin_heads) {
    c.thin = read_thin_heads(c, {.prefix = "sedpa_thin_heads.",
                                 .key_widths = hf.thin_heads->key_widths,
                                 .value_widths = hf.thin_heads->value_widths,
                                 .rope_planes = hf.thin_heads->rope_planes});
  }
  return c;
}

}  // namespace sedpa
