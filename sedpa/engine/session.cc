#include "sedpa/engine/session.h"

#include <algorithm>
#include <atomic>
#include <map>

#include "sedpa/core/argmax.h"
#include "sedpa/core/fail.h"
#include "sedpa/engine/engine.h"
#include "sedpa/engine/random_kv.h"
#include "sedpa/model/forward.h"

namespace sedpa {
namespace {

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

// Checks what the constructor's members are built from.
SessionOptions checked(SessionOptions options, const Engine& engine) {
  const ModelConfig& config = engine.config();
  if (options.context < 1) fail("context is {} tokens, expected at least 1", options.context);
  if (options.context > kMostContext) {
    fail("context is {} tokens, expected at most {}", options.context, kMostContext);
  }
  if (options.chunk < 0) fail("chunk is {} tokens, expected at least 1", options.chunk);
  options = engine.resolved(std::move(options));
  if (static_cast<std::int64_t>(options.heads.layers.size()) != config.layers) {
    fail("head plan is for {} layers, but the model has {}", options.heads.layers.size(),
         config.layers);
  }
  return options;
}

std::array<Buffer, kHeadClasses> allocate_arenas(Engine& engine, const SessionOptions& options) {
  const KvGeometry geometry = kv_geometry(engine.config(), options);
  std::array<Buffer, kHeadClasses> arenas;
  for (int i = 0; i < kHeadClasses; ++i) {
    arenas[i] = engine.ops().allocate(geometry.arena_bytes(i));
  }
  return arenas;
}

}  // namespace

OpsPlan ops_plan(const ModelConfig& config, const SessionOptions& options) {
  return forward_plan(config, options.chunk, options.context, options.heads);
}

KvGeometry kv_geometry(const ModelConfig& config, const SessionOptions& options) {
  return {.plan = options.heads,
          .context = options.context,
          .head_dim = config.head_dim,
          .dtype = options.kv,
          .widths = config.thin.widths};
}

Session::Session(Engine& engine, SessionOptions options)
    : engine_(engine),
      id_(next_id()),
      options_(checked(std::move(options), engine)),
      arenas_(allocate_arenas(engine, options_)),
      cache_(kv_geometry(engine.config(), options_),
             {arenas_[kRetrieval].data, arenas_[kStreaming].data}),
      activations_(
          Activations::make(engine.config(), options_.chunk, options_.logit_rows, engine.ops())) {
  reserved_bytes_ = engine.ops().scratch_bytes(ops_plan(engine.config(), options_));
  engine.reserve_for(*this);
  logits_.resize(static_cast<std::size_t>(options_.logit_rows * engine.config().vocab_size));
}

void Session::check(std::span<const std::int32_t> tokens) const {
  if (tokens.empty()) fail("there are no tokens to read, expected at least 1");
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count > options_.context - length()) {
    fail("{} tokens do not fit: {} of the context's {} are taken{}", count, length(),
         options_.context,
         options_.context < kMostContext ? "; use a larger --context"
                                         : ", and positions have no more bits");
  }
  const std::int32_t vocabulary = engine_.config().vocab_size;
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= vocabulary) {
      fail("token id {} is outside the vocabulary of {}", token, vocabulary);
    }
  }
}

void Session::remember(std::span<const std::int32_t> tokens) {
  if (options_.remembered > 0) {
    const auto most = static_cast<std::size_t>(options_.remembered);
    tokens = tokens.last(std::min(tokens.size(), most));
    const std::size_t kept = std::min(tokens_.size(), most - tokens.size());
    tokens_.erase(tokens_.begin(), tokens_.end() - static_cast<std::ptrdiff_t>(kept));
  }
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
}

void Session::pass(std::span<const std::int32_t> chunk, std::int64_t logit_rows) {
  engine_.reserve_for(*this);
  Ops& ops = engine_.ops();
  const StepKey key{.tokens = static_cast<std::int64_t>(chunk.size()),
                    .logit_rows = logit_rows,
                    .owner = observer_ ? 0 : id_};
  ops.begin_step({.tokens = chunk, .past = length()}, cache_);
  ops.run(key, [&] { forward(ops, engine_.model(), cache_, activations_, key, observer_); });
  cache_.advance(key.tokens);
  remember(chunk);
  last_rows_ = logit_rows;
  on_device_ = logit_rows > 0;
}

void Session::read_logits() const {
  if (on_device_) engine_.ops().read(activations_.logits.range(0, last_rows_), logits_.data());
  on_device_ = false;
}

std::span<const float> Session::append(std::span<const std::int32_t> tokens,
                                       const std::function<void(std::int64_t)>& progress) {
  feed(tokens, progress);
  return logits();
}

void Session::feed(std::span<const std::int32_t> tokens,
                   const std::function<void(std::int64_t)>& progress) {
  check(tokens);
  const auto count = static_cast<std::int64_t>(tokens.size());
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t size = std::min(options_.chunk, count - done);
    const bool last = done + size == count;
    pass(tokens.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(size)),
         last ? 1 : 0);
    done += size;
    if (progress) progress(done);
  }
}

void Session::evaluate(std::span<const std::int32_t> tokens,
                       const std::function<void(std::int64_t, std::span<const float>)>& take) {
  check(tokens);
  const auto count = static_cast<std::int64_t>(tokens.size());
  const auto vocabulary = static_cast<std::size_t>(engine_.config().vocab_size);
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t size = std::min(options_.logit_rows, count - done);
    pass(tokens.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(size)), size);
    read_logits();
    take(done, std::span(logits_).first(static_cast<std::size_t>(size) * vocabulary));
    done += size;
  }
}

void Session::clear() {
  cache_.clear();
  tokens_.clear();
  last_rows_ = 0;
  on_device_ = false;
}

void Session::fill(std::int64_t length) {
  clear();
  const std::vector<std::int32_t> tokens(static_cast<std::size_t>(length), 0);
  if (length > 0) check(tokens);
  // Rows enough that no two neighbours of a tile are alike.
  constexpr std::int64_t kRows = 1021;
  std::map<std::int32_t, std::vector<std::byte>> rows;  // by their numbers
  const auto repeat = [&](std::int32_t dim, std::byte* to, std::int64_t bytes) {
    if (bytes == 0) return;
    std::vector<std::byte>& pattern = rows[dim];
    if (pattern.empty()) pattern = random_kv_rows(options_.kv, dim, kRows);
    engine_.ops().repeat(pattern, to, static_cast<std::size_t>(bytes));
  };
  for (std::int64_t layer = 0; layer < cache_.layers(); ++layer) {
    for (const KvBlock& block : cache_.layer(layer).blocks) {
      const std::int64_t slots = block.heads * block.capacity;
      repeat(block.key_dim, block.keys, slots * block.key_row_bytes);
      repeat(block.value_dim, block.values, slots * block.value_row_bytes);
    }
  }
  cache_.restore(length);
  remember(tokens);
}

void Session::restore(std::span<const std::int32_t> tokens, std::span<const float> logits) {
  clear();
  check(tokens);
  if (!logits.empty() && logits.size() != static_cast<std::size_t>(engine_.config().vocab_size)) {
    fail("{} logits were saved, but the vocabulary has {} tokens", logits.size(),
         engine_.config().vocab_size);
  }
  cache_.restore(static_cast<std::int64_t>(tokens.size()));
  remember(tokens);
  std::copy(logits.begin(), logits.end(), logits_.begin());
  last_rows_ = logits.empty() ? 0 : 1;
}

std::span<const float> Session::logits() const {
  if (last_rows_ == 0) return {};
  read_logits();
  const auto vocabulary = static_cast<std::size_t>(engine_.config().vocab_size);
  return std::span(logits_).subspan((static_cast<std::size_t>(last_rows_) - 1) * vocabulary,
                                    vocabulary);
}

std::int32_t Session::likeliest() const {
  return on_device_ ? engine_.ops().argmax(activations_.logits.range(last_rows_ - 1, 1))
                    : argmax(logits());
}

std::size_t Session::kv_bytes() const {
  return arenas_[kRetrieval].bytes + arenas_[kStreaming].bytes;
}

std::size_t Session::scratch_bytes() const {
  return activations_.buffer.bytes + reserved_bytes_ + logits_.size() * sizeof(float);
}

std::size_t Session::decode_bytes() const {
  return engine_.model().decode_weight_bytes() + cache_.geometry().read_bytes(length());
}

}  // namespace sedpa
