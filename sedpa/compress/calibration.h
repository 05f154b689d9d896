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

/// A model as compression has it at some point: the one of the files, or one that is thin already.
struct ModelView {
  const ModelConfig& config;  // with room for every rank that may be chosen
  const WeightSource& weights;
  const HeadPlan& heads;  // which of its KV heads stream while it is looked at
};

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
  /// used after. config.max_rank bounds the layers' factors. `heads` says which heads stream.
  /// `ops` must outlive it.
  LayerRunner(Ops& ops, const ModelConfig& config, const HeadPlan& heads, std::int64_t max_tokens);
  /// Exactly the bytes that the constructor allocates and reserves.
  [[nodiscard]] static std::size_t bytes(const Ops& ops, const ModelConfig& config,
                                         const HeadPlan& heads, std::int64_t max_tokens);

  /// x [tokens, width] = the tokens' embeddings. Throws Error for an id outside the vocabulary.
  void embed(const WeightSource& source, std::span<const std::int32_t> tokens, Rows x);
  /// The norm that the projections of heads read. x, result [n, width]; until the next call.
  [[nodiscard]] Rows normed(const Layer& layer, Rows x);
  /// What attention makes of x in layer `index`: [n, layer.shape.out_cols]; until the next call.
  [[nodiscard]] Rows attend(const Layer& layer, std::int32_t index,
                            std::span<const std::int32_t> tokens, Rows x);
  /// The rotated queries, the keys and the values that it was made of, [n, layer.shape.qkv_cols];
  /// until the next call.
  [[nodiscard]] Rows projected(const Layer& layer, std::int64_t tokens) const {
    return activations_.qkv.range(0, tokens).columns(0, layer.shape.qkv_cols);
  }
  /// The rest of the layer: out = the layer's output for its input x and attention's o. out may be
  /// x.
  void finish(const Layer& layer, Rows x, Rows o, Rows out);

 private:
  Ops& ops_;
  ModelConfig config_;
  HeadPlan heads_;
  std::int64_t max_tokens_;
  std::array<Buffer, kHeadClasses> arenas_;
  Activations activations_;
};

/// Sequences on their way through a model's layers.
class Stream {
 public:
  /// Begins with the tokens' embeddings. `runner` must outlive it.
  Stream(Ops& ops, const ModelView& model, LayerRunner& runner,
         std::vector<std::span<const std::int32_t>> tokens);

  [[nodiscard]] std::size_t size() const { return tokens_.size(); }
  [[nodiscard]] std::span<const std::int32_t> tokens(std::size_t i) const { return tokens_[i]; }
  [[nodiscard]] const std::vector<std::int64_t>& lengths() const { return lengths_; }
  [[nodiscard]] const RowStore& rows() const { return rows_; }
  [[nodiscard]] Rows of(std::size_t i) const { return rows_.of(i); }
  [[nodiscard]] LayerRunner& runner() const { return runner_; }
  /// What attention makes of a sequence that stands before layer `index`.
  [[nodiscard]] Rows attend(const Layer& layer, std::int32_t index, std::size_t i) const {
    return runner_.attend(layer, index, tokens_[i], of(i));
  }
  /// Takes all sequences through layer `index`, from `from` to `to`; `step` is called for each.
  void pass(const Layer& layer, std::int32_t index, const RowStore& from, const RowStore& to,
            const std::function<void()>& step) const;
  void pass(const Layer& layer, std::int32_t index, const std::function<void()>& step) const {
    pass(layer, index, rows_, rows_, step);
  }

 private:
  LayerRunner& runner_;
  std::vector<std::span<const std::int32_t>> tokens_;
  std::vector<std::int64_t> lengths_;
  RowStore rows_;
};

/// The tokens of all sequences, or of all probes: running text first, then retrieval.
[[nodiscard]] std::vector<std::span<const std::int32_t>> sequence_tokens(
    const CalibrationText& text);
[[nodiscard]] std::vector<std::span<const std::int32_t>> probe_tokens(const CalibrationText& text);

/// The last norm and the output matrix: from a model's last rows to distributions.
class OutputHead {
 public:
  OutputHead(Ops& ops, const ModelConfig& config, const WeightSource& source);
  /// Logits of rows of x, in order, as many at a time as there is room for: take([rows,
  /// vocab_size]).
  void logits(Rows x, RowRange range, const std::function<void(std::span<const float>)>& take);

 private:
  Ops& ops_;
  float epsilon_;
  Vector norm_;
  Linear output_;
  std::vector<float> some_;  // rows that have been read
};

/// KL divergences of next tokens from the original model's.
struct Divergence {
  double running = 0;
  double retrieving = 0;

  [[nodiscard]] double mean() const { return (running + retrieving) / 2; }
};

/// Compares models by the rows that stand behind their last layers, of the probes of a text.
class ProbeComparison {
 public:
  /// `original`: the original model's rows; they are not needed any more afterwards.
  /// `text` has to outlive this.
  ProbeComparison(Ops& ops, const ModelView& model, const CalibrationText& text,
                  const RowStore& original, ThreadPool& pool);
  /// KL(original || found), natural logarithm, the mean over each kind's rows; 0 of no rows.
  [[nodiscard]] Divergence of(const RowStore& rows);
  /// Bytes of the original's logits, in the host's memory.
  [[nodiscard]] static std::size_t bytes(const ModelConfig& config, const CalibrationText& text);

 private:
  /// What the original says of the rows of one kind of probe.
  struct Expected {
    std::span<const Probe> probes;
    std::size_t first = 0;       // of all probes, the first of these
    std::vector<float> logits;   // [rows, vocabulary]
    std::vector<float> highest;  // [rows], of the logits
    std::vector<double> sum;     // [rows], of e^(logit - highest)
  };

  /// The logits behind `rows`, of the rows that are compared.
  void each(const Expected& expected, const RowStore& rows,
            const std::function<void(std::span<const float>)>& take);
  [[nodiscard]] Expected expect(std::span<const Probe> probes, std::size_t first,
                                const RowStore& original);
  [[nodiscard]] double mean_kl(const Expected& expected, const RowStore& rows);

  std::int64_t vocabulary_;
  OutputHead head_;
  ThreadPool& pool_;
  Expected running_;
  Expected retrieving_;
};

}  // namespace sedpa
