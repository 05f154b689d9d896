#include "sedpa/identify/attention_reader.h"

#include <algorithm>
#include <cstring>

#include "sedpa/core/fail.h"
#include "sedpa/model/thin_heads.h"

namespace sedpa {
namespace {

constexpr std::int64_t kPassRows = 64;  // rows of one pass that is looked at: each gets logits

AttentionReaderOptions checked(const AttentionReaderOptions& options, const ModelConfig& config) {
  if (options.kv == KvDtype::q8 || options.kv == KvDtype::q4) {
    fail("heads are scored on keys and values in {}, expected f32, f16 or bf16", name(options.kv));
  }
  if (config.sliding_window && options.context > *config.sliding_window) {
    fail(
        "{}: all heads of this model see {} tokens back; heads can be told apart only within "
        "that, so --context must be at most {}, not {}",
        config.path, *config.sliding_window, *config.sliding_window, options.context);
  }
  return options;
}

// The cached row of a KV head at position 0: all heads are full, so slots are positions.
const std::byte* first_row(const KvLayer& cache, std::int32_t kv_head, bool keys) {
  const std::vector<std::int32_t>& order = cache.heads->order;
  const auto head = std::find(order.begin(), order.end(), kv_head) - order.begin();
  const KvBlock& block = cache.blocks[kRetrieval];
  return keys ? block.key(head, 0) : block.value(head, 0);
}

}  // namespace

SessionOptions AttentionReader::session_options(const AttentionReaderOptions& options,
                                                const ModelConfig& config) {
  refuse_thin_heads(config, "scoring heads");
  return {.context = options.context,
          .heads = HeadPlan::uniform(config.layers, config.kv_heads, HeadClass{}),
          .kv = options.kv,
          .chunk = options.chunk,
          .logit_rows = kPassRows};
}

AttentionReader::AttentionReader(Engine& engine, const AttentionReaderOptions& options)
    : engine_(engine),
      shape_(engine.config().attention()),
      session_(engine, session_options(checked(options, engine.config()), engine.config())) {
  queries_.resize(offset(engine.config().layers, 0));
  outputs_.resize(queries_.size());
}

std::vector<std::int32_t> AttentionReader::read(std::span<const std::int32_t> tokens,
                                                std::span<const std::int64_t> rows,
                                                const std::function<void(const PassRows&)>& take,
                                                const std::function<void(std::int64_t)>& progress) {
  std::vector<std::int32_t> likely;
  if (rows.empty()) return likely;
  if (!std::is_sorted(rows.begin(), rows.end()) || rows.front() < 0 ||
      rows.back() >= std::ssize(tokens)) {
    fail("rows to measure are not ascending positions of {} tokens", tokens.size());
  }
  session_.clear();
  const std::int64_t begin = rows.front();
  const auto part = [&](std::int64_t from, std::int64_t to) {
    return tokens.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from));
  };
  if (begin > 0) session_.append(part(0, begin), progress);

  const std::int64_t cols = shape_.out_cols();
  session_.observe([&](std::int32_t layer, Rows qkv, Rows o) {
    engine_.ops().read(qkv.columns(0, cols), queries_.data() + offset(layer, 0));
    engine_.ops().read(o, outputs_.data() + offset(layer, 0));
  });
  session_.evaluate(
      part(begin, rows.back() + 1), [&](std::int64_t done, std::span<const float> logits) {
        const auto vocabulary = static_cast<std::size_t>(engine_.config().vocab_size);
        const std::int64_t first = begin + done;
        const std::int64_t end = first + static_cast<std::int64_t>(logits.size() / vocabulary);
        const std::size_t from = likely.size();
        while (likely.size() < rows.size() && rows[likely.size()] < end) {
          const auto row = logits.subspan(
              static_cast<std::size_t>(rows[likely.size()] - first) * vocabulary, vocabulary);
          likely.push_back(
              static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
        }
        const PassRows here{.first = first,
                            .positions = rows.subspan(from, likely.size() - from),
                            .index = static_cast<std::int64_t>(from)};
        if (!here.positions.empty()) take(here);
        if (progress) progress(end);
      });
  session_.observe({});
  return likely;
}

void AttentionReader::read_keys(std::int32_t layer, std::int32_t kv_head, std::int64_t begin,
                                std::int64_t count, float* out) {
  const KvLayer& cache = session_.cache().layer(layer);
  const std::int64_t row_bytes = cache.blocks[kRetrieval].key_row_bytes;
  widen(first_row(cache, kv_head, true) + begin * row_bytes, count, out);
}

void AttentionReader::read_values(std::int32_t layer, std::int32_t kv_head, std::int64_t begin,
                                  std::int64_t count, float* out) {
  const KvLayer& cache = session_.cache().layer(layer);
  const std::int64_t row_bytes = cache.blocks[kRetrieval].value_row_bytes;
  widen(first_row(cache, kv_head, false) + begin * row_bytes, count, out);
}

// Rows of the cache to numbers on the host.
void AttentionReader::widen(const std::byte* rows, std::int64_t count, float* out) {
  if (count == 0) return;
  const KvDtype dtype = session_.options().kv;
  raw_.resize(static_cast<std::size_t>(count * kv_row_bytes(dtype, shape_.head_dim)));
  engine_.ops().copy_to_host(rows, raw_.data(), raw_.size());
  if (dtype == KvDtype::f32) {
    std::memcpy(out, raw_.data(), raw_.size());
    return;
  }
  for (std::int64_t i = 0; i < count * shape_.head_dim; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, raw_.data() + 2 * i, sizeof(bits));
    out[i] = dtype == KvDtype::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  }
}

}  // namespace sedpa
