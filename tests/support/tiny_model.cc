#include "tests/support/tiny_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "sedpa/format/attention_pattern.h"
#include "sedpa/format/quant_blocks.h"

namespace sedpa::test {
namespace {

// One code point as UTF-8; they stay below U+0800 here.
std::string utf8(std::uint32_t code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

// GPT-2's printable stand-in of each byte.
std::vector<std::string> byte_tokens() {
  std::vector<std::string> tokens;
  std::uint32_t next = 256;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) ||
                           (byte >= 0xae && byte <= 0xff);
    tokens.push_back(utf8(printable ? byte : next++));
  }
  return tokens;
}

// Numbers of a tensor, the same for a seed and name on every machine.
std::vector<float> tiny_numbers(const TinyModel& model, const std::string& name, std::int64_t count,
                                bool norm) {
  std::seed_seq seed(name.begin(), name.end());
  std::uint32_t salt[1];
  seed.generate(std::begin(salt), std::end(salt));
  std::mt19937_64 random(model.seed * 0x9e3779b97f4a7c15u + salt[0]);
  std::vector<float> numbers(static_cast<std::size_t>(count));
  for (float& number : numbers) {
    const double u = static_cast<double>(random() >> 11) * 0x1p-53 * 2 - 1;
    number = static_cast<float>(norm ? 1 + 0.1 * u : 0.5 * u);
  }
  return numbers;
}

}  // namespace

std::vector<TinyTensor> tiny_tensors(const TinyModel& m) {
  const std::int64_t queries = std::int64_t{m.query_heads} * m.head_dim;
  const std::int64_t keys = std::int64_t{m.kv_heads} * m.head_dim;
  std::vector<TinyTensor> all = {{"token_embd.weight", {kTinyVocabulary, m.width}},
                                 {"output_norm.weight", {m.width}},
                                 {"output.weight", {kTinyVocabulary, m.width}}};
  for (std::int32_t i = 0; i < m.layers; ++i) {
    const auto add = [&](const char* name, std::vector<std::int64_t> shape) {
      all.push_back({fmt::format("blk.{}.{}.weight", i, name), std::move(shape)});
    };
    add("attn_norm", {m.width});
    add("attn_q", {queries, m.width});
    add("attn_k", {keys, m.width});
    add("attn_v", {keys, m.width});
    add("attn_output", {m.width, queries});
    add("ffn_norm", {m.width});
    add("ffn_gate", {m.mlp_width, m.width});
    add("ffn_up", {m.mlp_width, m.width});
    add("ffn_down", {m.width, m.mlp_width});
  }
  return all;
}

void add_tiny_config(GgufWriter& file, const TinyModel& m) {
  const std::string prefix = m.architecture + ".";
  const auto size = [&](const char* key, std::int64_t value) {
    file.add_u32(prefix + key, static_cast<std::uint32_t>(value));
  };
  file.add_string("general.architecture", m.architecture);
  file.add_string("general.name", "tiny");
  size("block_count", m.layers);
  size("embedding_length", m.width);
  size("feed_forward_length", m.mlp_width);
  size("context_length", m.context);
  size("attention.head_count", m.query_heads);
  size("attention.head_count_kv", m.kv_heads);
  size("attention.key_length", m.head_dim);
  size("attention.value_length", m.head_dim);
  size("rope.dimension_count", m.head_dim);
  file.add_f32(prefix + "rope.freq_base", 10000.0f);
  file.add_f32(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
}

void add_tiny_vocabulary(GgufWriter& file, const TinyModel& m) {
  const std::string space = byte_tokens()[' '];
  std::vector<std::string> tokens = byte_tokens();
  for (const std::string& word : {space + "t", space + "th", space + "the", std::string("he")}) {
    tokens.push_back(word);
  }
  std::vector<std::int64_t> kinds(tokens.size(), 1);
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    tokens.emplace_back(special);
    kinds.push_back(3);
  }
  file.add_string("tokenizer.ggml.model", "gpt2");
  file.add_string("tokenizer.ggml.pre", "gpt-2");
  file.add_strings("tokenizer.ggml.tokens", std::move(tokens));
  file.add_i32s("tokenizer.ggml.token_type", std::move(kinds));
  file.add_strings("tokenizer.ggml.merges", {space + " t", space + "t h", space + "th e", "h e"});
  file.add_u32("tokenizer.ggml.bos_token_id", kTinyEndOfText);
  file.add_u32("tokenizer.ggml.eos_token_id", kTinyTurnEnd);
  file.add_bool("tokenizer.ggml.add_bos_token", m.begin_token);
  if (!m.chat_template) return;
  file.add_string("tokenizer.chat_template",
                  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
                  "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
                  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
}

void add_tiny_tensors(GgufWriter& file, const TinyModel& m,
                      const std::vector<std::string>& leave_out) {
  for (const TinyTensor& tensor : tiny_tensors(m)) {
    if (std::find(leave_out.begin(), leave_out.end(), tensor.name) != leave_out.end()) continue;
    const bool norm = tensor.shape.size() == 1;
    const std::int64_t cols = tensor.shape.back();
    const std::int64_t rows = norm ? 1 : tensor.shape.front();
    const Dtype dtype = norm ? Dtype::f32 : m.dtype;
    auto numbers =
        std::make_shared<std::vector<float>>(tiny_numbers(m, tensor.name, rows * cols, norm));
    file.add_tensor(tensor.name, dtype, tensor.shape,
                    [numbers, dtype, cols](std::int64_t row, std::span<std::byte> out) {
                      quantize_row(dtype, numbers->data() + row * cols, cols, out.data());
                    });
  }
}

void write_tiny_model(const std::string& path, const TinyModel& model) {
  GgufWriter file;
  add_tiny_config(file, model);
  add_tiny_vocabulary(file, model);
  add_tiny_tensors(file, model);
  file.write(path);
}

void write_tiny_vocabulary(const std::string& path, const TinyModel& model) {
  GgufWriter file;
  file.add_string("general.architecture", model.architecture);
  add_tiny_vocabulary(file, model);
  file.write(path);
}

void write_tiny_adapter(const std::string& path, const TinyModel& m, std::int32_t rank,
                        std::int64_t context_length) {
  GgufWriter file;
  file.add_string("general.type", "adapter");
  file.add_string("adapter.type", "lora");
  file.add_string("general.architecture", m.architecture);
  file.add_f32("adapter.lora.alpha", static_cast<float>(rank));
  if (context_length > 0) {
    file.add_u32(m.architecture + ".context_length", static_cast<std::uint32_t>(context_length));
  }
  std::vector<std::vector<float>> kept;  // add_tensor does not copy
  for (const TinyTensor& tensor : tiny_tensors(m)) {
    if (!tensor.name.ends_with("attn_q.weight") && !tensor.name.ends_with("ffn_down.weight")) {
      continue;
    }
    const auto add = [&](const std::string& name, std::int64_t rows, std::int64_t cols) {
      kept.push_back(tiny_numbers(m, name, rows * cols, false));
      file.add_tensor(name, Dtype::f32, {rows, cols}, std::as_bytes(std::span(kept.back())));
    };
    add(tensor.name + ".lora_a", rank, tensor.shape[1]);
    add(tensor.name + ".lora_b", tensor.shape[0], rank);
  }
  file.write(path);
}

void write_tiny_pattern(const std::string& directory, std::int32_t layers, std::int32_t kv_heads,
                        std::int32_t sink, std::int32_t recent) {
  AttentionPattern pattern{.layers = layers,
                           .kv_heads = kv_heads,
                           .gates = {},
                           .sink_size = sink,
                           .recent_size = recent,
                           .config_json = ""};
  std::mt19937_64 random(7);
  for (std::int32_t i = 0; i < layers * kv_heads; ++i) {
    pattern.gates.push_back(static_cast<double>(random() >> 11) * 0x1p-53);
  }
  save_attention_pattern(directory, pattern);
}

}  // namespace sedpa::test
