#pragma once
// What compression looks at: sequences of tokens, run layer by layer. No more than one layer's
// weights are in memory, and of each sequence the rows between two layers.
#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sedpa/attention/kv_cache.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/engine/engine.h"
#include "sedpa/model/activations.h"
#include "sedpa/model/model.h"

namespace sedpa {

/// Rows [first, first + count) of a sequence.
struct RowRange {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// A sequence at some of whose rows the next token's distribution is compared.
struct Probe {
  std::vector<std::int32_t> tokens;
  std::vector<RowRange> rows;
};

struct CalibrationText {
  std::vector<std::vector<std::int32_t>> sequences;  // what inputs are gathered over
  std::vector<Probe> running;                        // ordinary text, none of the above
  std::vector<Probe> retrieving;                     // answers that stand far above
  std::string name;                                  // of the text
  std::string fingerprint;                           // 16 hexadecimal digits over all of it

  [[nodiscard]] std::int64_t longest() const;  // tokens of a sequence or probe
  [[nodiscard]] std::int64_t tokens() const;   // of the sequences together
};

/// The configuration with room for factors of every rank that compression may choose.
[[nodiscard]] ModelConfig with_useful_ranks(ModelConfig config);

/// Sequences' rows of one width, one after the other in a backend's memory.
class RowStore {
 public:
  RowStore(Ops& ops, std::span<const std::int64_t> lengths, std::int64_t cols);
  [[nodiscard]] Rows of(std::size_t sequence) const;

 private:
  Buffer buffer_;
  std::int64_t cols_;
  std::vector<std::int64_t> begins_;  // [sequences + 1]
};

/// Runs one layer, or what stands before and behind all of them, over a whole sequence.
class LayerRunner {
 public:
  /// Reserves the backend for sequences of up to `max_tokens`: sessions made before must not be
  /// used after. config.max_rank bounds the layers' factors. `ops` must outlive it.
  LayerRunner(Ops& ops, const ModelConfig& config, std::int64_t max_tokens);
  /// Exactly the bytes that the constructor allocates and reserves.
  [[nodiscard]] static std::size_t bytes(const Ops& ops, const ModelConfig& config,
                                         std::int64_t max_tokens);

  /// x [tokens, width] = the tokens' embeddings. Throws Error for an id outside the vocabulary.
  void embed(const WeightSource& source, std::span<const std::int32_t> tokens, Rows x);
  /// The norm that the projections of heads read. x, result [n, width]; until the next call.
  [[nodiscard]] Rows normed(const Layer& layer, Rows x);
  /// What attention makes of x: [n, layer.shape.out_cols]; until the next call.
  [[nodiscard]] Rows attend(const Layer& layer, std::span<const std::int32_t> tokens, Rows x);
  /// The rest of the layer: out = the layer's output for its input x and attention's o. out may be
  /// x.
  void finish(const Layer& layer, Rows x, Rows o, Rows out);

 private:
  Ops& ops_;
  ModelConfig config_;
  KvGeometry geometry_;  // of one layer, as wide as any
  std::array<Buffer, kHeadClasses> arenas_;
  Activations activations_;
};

/// The last norm and the output matrix: from a model's last rows to distributions.
class OutputHead {
 public:
  OutputHead(Ops& ops, const ModelConfig& config, const WeightSource& source);
  /// logits [range.count, vocab_size] of rows of x.
  void logits(Rows x, RowRange range, std::vector<float>& out);

 private:
  Ops& ops_;
  float epsilon_;
  Vector norm_;
  Linear output_;
};

/// The mean of KL(p || q) over rows, natural logarithm; p, q logits [rows, vocabulary].
[[nodiscard]] double mean_kl(std::span<const float> p, std::span<const float> q,
                             std::int64_t vocabulary, ThreadPool& pool);

}  // namespace sedpa
