#include "sedpa/model/activations.h"

#include <algorithm>

#include "sedpa/core/checked.h"

namespace sedpa {
namespace {

struct Layout {
  std::int64_t x, h, qkv, o, gate_up, act, logits;  // offsets in numbers
  std::int64_t size;
};

Layout lay_out(const ModelConfig& c, std::int64_t tokens, std::int64_t logit_rows) {
  constexpr std::int64_t kAlign = 16;  // numbers: one cache line
  const AttentionShape attention = c.attention();
  std::int64_t next = 0;
  const auto take = [&](std::int64_t rows, std::int64_t cols) {
    const std::int64_t offset = next;
    next += round_up(rows * cols, kAlign);
    return offset;
  };
  Layout at{};
  at.x = take(tokens, c.width);
  at.h = take(tokens, c.width);
  const std::int64_t shared = next;
  at.qkv = take(tokens, attention.qkv_cols());
  at.o = take(tokens, attention.out_cols());
  const std::int64_t attention_end = next;
  next = shared;
  at.gate_up = take(tokens, 2 * std::int64_t{c.mlp_width});
  at.act = take(tokens, c.mlp_width);
  next = std::max(next, attention_end);
  at.logits = take(logit_rows, c.vocab_size);
  at.size = next;
  return at;
}

}  // namespace

std::size_t Activations::bytes(const ModelConfig& config, std::int64_t max_tokens,
                               std::int64_t max_logit_rows) {
  return static_cast<std::size_t>(lay_out(config, max_tokens, max_logit_rows).size) * sizeof(float);
}

Activations Activations::make(const ModelConfig& config, std::int64_t max_tokens,
                              std::int64_t max_logit_rows, Ops& ops) {
  Activations a;
  a.buffer = ops.allocate(bytes(config, max_tokens, max_logit_rows));
  const Layout at = lay_out(config, max_tokens, max_logit_rows);
  float* base = a.buffer.floats();
  const auto rows = [&](std::int64_t offset, std::int64_t count, std::int64_t cols) {
    return Rows{.data = base + offset, .rows = count, .cols = cols, .stride = cols};
  };
  const AttentionShape attention = config.attention();
  a.x = rows(at.x, max_tokens, config.width);
  a.h = rows(at.h, max_tokens, config.width);
  a.qkv = rows(at.qkv, max_tokens, attention.qkv_cols());
  a.o = rows(at.o, max_tokens, attention.out_cols());
  a.gate_up = rows(at.gate_up, max_tokens, 2 * std::int64_t{config.mlp_width});
  a.act = rows(at.act, max_tokens, config.mlp_width);
  a.logits = rows(at.logits, max_logit_rows, config.vocab_size);
  return a;
}

}  // namespace sedpa
