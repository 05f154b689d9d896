#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/attention/kv_cache.h"
#include "sedpa/core/dtype.h"
#include "sedpa/model/activations.h"
#include "sedpa/model/forward.h"
#include "sedpa/ops/ops.h"

namespace sedpa {

class Engine;

/// The most tokens of a session: positions are 32-bit numbers.
inline constexpr std::int64_t kMostContext = std::int64_t{1} << 30;

struct SessionOptions {
  std::int64_t context = 0;  // tokens that the cache can hold, 1 to kMostContext
  HeadPlan heads;            // Engine::full_plan(), or HeadPlan::from_gates
  KvDtype kv = KvDtype::f16;
  std::int64_t chunk = 0;       // tokens of one prefill pass; 0: what suits the device
  std::int64_t logit_rows = 1;  // rows of one pass that can get logits, 1 to chunk
  /// How many of the last tokens tokens() remembers; 0: all. With a number, and windows for all
  /// heads, nothing grows with the length; such a session cannot be saved or marked.
  std::int64_t remembered = 0;
};

/// One sequence: its KV cache, its buffers, and the passes over it. The engine must be loaded and
/// outlive it. Sessions of one engine may alternate, but not run at once.
class Session {
 public:
  Session(Engine& engine, SessionOptions options);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Appends tokens, chunk by chunk. The last one's logits stay on the device until they are asked
  /// for. `progress(done)` is called after each chunk. Throws Error when there are none, when an id
  /// is outside the vocabulary, or when they do not fit the context.
  void feed(std::span<const std::int32_t> tokens,
            const std::function<void(std::int64_t done)>& progress = {});
  /// The same, and returns the logits [vocab_size] of the last token: valid until the next call.
  std::span<const float> append(std::span<const std::int32_t> tokens,
                                const std::function<void(std::int64_t done)>& progress = {});

  /// Appends tokens and gives the logits of each: `take(first, logits)` gets rows
  /// [n, vocab_size] for tokens [first, first + n) of the call, in order.
  void evaluate(std::span<const std::int32_t> tokens,
                const std::function<void(std::int64_t first, std::span<const float> logits)>& take);

  /// Lets `observer` see every layer's attention in later passes; empty: nobody.
  void observe(AttentionObserver observer) { observer_ = std::move(observer); }

  /// Forgets all tokens; memory stays.
  void clear();
  /// Takes up a length as if so many tokens had been read, with keys and values of small seeded
  /// numbers: for measuring speed.
  void fill(std::int64_t length);
  /// Takes up `tokens` whose keys and values have been copied into the cache's arenas, and the
  /// logits that the last of them gave (empty: they are not known).
  void restore(std::span<const std::int32_t> tokens, std::span<const float> logits);

  [[nodiscard]] std::int64_t length() const { return cache_.length(); }
  [[nodiscard]] const SessionOptions& options() const { return options_; }
  /// All tokens, or the last SessionOptions::remembered of them.
  [[nodiscard]] const std::vector<std::int32_t>& tokens() const { return tokens_; }
  /// Logits [vocab_size] of the last token; empty before the first.
  [[nodiscard]] std::span<const float> logits() const;
  [[nodiscard]] bool has_logits() const { return last_rows_ > 0; }
  /// The token with the largest logit, the lowest of equals, chosen on the device; -1 when a logit
  /// is NaN or positive infinity or none is finite. There must be logits.
  [[nodiscard]] std::int32_t likeliest() const;
  [[nodiscard]] const KvCache& cache() const { return cache_; }
  /// No two sessions of a process have the same.
  [[nodiscard]] std::uint64_t id() const { return id_; }
  [[nodiscard]] Engine& engine() const { return engine_; }
  /// Allocated, not planned.
  [[nodiscard]] std::size_t kv_bytes() const;
  [[nodiscard]] std::size_t scratch_bytes() const;
  /// Bytes that one decode step must read now: weights once, keys and values in sight once.
  [[nodiscard]] std::size_t decode_bytes() const;

 private:
  void check(std::span<const std::int32_t> tokens) const;
  void read_logits() const;
  void remember(std::span<const std::int32_t> tokens);
  // One pass over a chunk.
  void pass(std::span<const std::int32_t> chunk, std::int64_t logit_rows);

  Engine& engine_;
  std::uint64_t id_;
  SessionOptions options_;
  std::array<Buffer, kHeadClasses> arenas_;
  KvCache cache_;
  Activations activations_;
  std::size_t reserved_bytes_ = 0;
  AttentionObserver observer_;
  std::vector<std::int32_t> tokens_;   // [length], or the last `remembered`
  mutable std::vector<float> logits_;  // [logit_rows, vocab_size]
  std::int64_t last_rows_ = 0;         // rows of logits that the last pass gave
  mutable bool on_device_ = false;     // the last pass's logits have not been read yet
};

/// What Ops::reserve needs to know for a session.
[[nodiscard]] OpsPlan ops_plan(const ModelConfig& config, const SessionOptions& options);
[[nodiscard]] KvGeometry kv_geometry(const ModelConfig& config, const SessionOptions& options);

}  // namespace sedpa
