#pragma once
// THE SEAM between the model and the machines that run it. One forward pass (model/forward.cc)
// calls these operations; backend/cpu and backend/cuda implement them.
//
// The laws:
// 1. Views in, views out. No operation allocates, synchronises or reads back. What an operation
//    needs besides its arguments is reserved before (`reserve`).
// 2. What changes each step (tokens, positions, lengths) is read from step state in the backend's
//    own memory, set by `begin_step`; the host branches on the StepKey alone.
// 3. Grids depend on capacity, not on length: the attention work lists of all layers are built once
//    a step.
// 4. An Ops instance is one stream of work; addresses never move after `reserve`.
//
// Views may alias where it says so. Activations are f32. Rows of a chunk are its tokens.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "sedpa/attention/kv_cache.h"
#include "sedpa/core/tensor.h"
#include "sedpa/ops/step.h"
#include "sedpa/ops/weight.h"

namespace sedpa {

class DenseOps;
class TrainOps;

/// Memory of a backend, returned when the last copy goes.
struct Buffer {
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::shared_ptr<void> storage;

  [[nodiscard]] float* floats() const { return reinterpret_cast<float*>(data); }
};

/// The largest that any step of a model will ask for. `reserve` sizes scratch by it.
struct OpsPlan {
  AttentionShape attention;
  RopeSpec rope;
  std::int64_t max_tokens = 0;   // of one chunk
  std::int64_t max_context = 0;  // committed tokens and the chunk's own
  std::int64_t max_cols = 0;     // widest input of a linear
  std::int64_t max_rank = 0;     // widest intermediate of a low-rank linear; 0 when there is none
  const HeadPlan* heads = nullptr;  // only read during the call
};

/// What an engine asks before it plans.
struct OpsTraits {
  std::string device;                 // "cpu", "cuda:0"
  std::int64_t chunk_tokens = 512;    // of a prefill pass, where nobody says otherwise
  std::uint64_t available_bytes = 0;  // that `allocate` can still give; 0: it cannot be told
};

class Ops {
 public:
  virtual ~Ops();
  [[nodiscard]] virtual OpsTraits traits() const = 0;
  /// What training needs besides, on the same stream (ops/train_ops.h). It lives as long as this.
  [[nodiscard]] virtual TrainOps& train() = 0;
  /// Dense algebra in this backend's memory, on the same stream (ops/dense_ops.h). It lives as long
  /// as this. Null: the memory is the host's, where LAPACK works.
  [[nodiscard]] virtual DenseOps* dense() { return nullptr; }

  // --- Memory -------------------------------------------------------------------------------
  /// Zero-filled memory of this backend.
  virtual Buffer allocate(std::size_t bytes) = 0;
  /// Stacks the sources (same cols) into one Weight in this backend's layout.
  virtual Weight make_weight(std::span<const MatrixSource> bands) = 0;
  /// Exactly what make_weight would allocate for one band.
  [[nodiscard]] virtual std::size_t weight_bytes(Dtype dtype, std::int64_t rows,
                                                 std::int64_t cols) const = 0;
  virtual Vector make_vector(std::span<const float> values) = 0;
  /// Exactly what `reserve` allocates for a plan, step state included.
  [[nodiscard]] virtual std::size_t scratch_bytes(const OpsPlan& plan) const = 0;
  /// Makes room for every step within the plan. Call again for another plan; not within a step.
  virtual void reserve(const OpsPlan& plan) = 0;
  /// Copies rows to the host, after all that was asked for before has been done.
  virtual void read(Rows rows, float* host) = 0;
  /// The column of the largest number of one row, the lowest of equals, after all that was asked
  /// for before has been done; -1 when a number is NaN or +inf, or none is finite.
  virtual std::int32_t argmax(Rows row) = 0;
  /// Raw copies between the host and this backend's memory (cache save and restore).
  virtual void copy_to_host(const std::byte* from, std::byte* host, std::size_t bytes) = 0;
  virtual void copy_from_host(const std::byte* host, std::byte* to, std::size_t bytes) = 0;
  /// Fills memory with a pattern of the host, again and again.
  virtual void repeat(std::span<const std::byte> pattern, std::byte* to, std::size_t bytes) = 0;

  // --- A step -------------------------------------------------------------------------------
  /// Sets step state: ids, positions, RoPE angles (formed and reduced in f64), attention work
  /// lists, and where commit will store. `cache` is at length step.past; it must outlive the step.
  virtual void begin_step(const Step& step, const KvCache& cache) = 0;
  /// Runs the operations that `body` asks for. A backend may record them once for a key and replay
  /// them later, without asking `body` where the key has an owner, and may join neighbours: rows
  /// that one operation writes for the next one alone then need not be in memory afterwards.
  /// Whoever reads in the middle of a pass finds them all.
  virtual void run(const StepKey& key, const std::function<void()>& body) = 0;

  // --- Operations ---------------------------------------------------------------------------
  /// out[t] = row of the step's token t. table [vocabulary, width], out [tokens, width].
  virtual void embed(const Weight& table, Rows out) = 0;
  /// out = x / sqrt(mean(x^2) + eps) * weight, row by row. out may be x.
  virtual void rms_norm(Rows x, const Vector& weight, float eps, Rows out) = 0;
  /// The same for each head vector of weight.size numbers in a row (QK norm). out may be x.
  virtual void head_norm(Rows x, const Vector& weight, float eps, Rows out) = 0;
  /// out = linear(x). x [n, in], out [n, out]; they do not overlap.
  virtual void linear(const Linear& weights, Rows x, Rows out) = 0;
  /// out = residual + linear(x). out may be residual.
  virtual void linear_add(const Linear& weights, Rows x, Rows residual, Rows out) = 0;
  /// Rotates the query and key heads of qkv [tokens, shape.qkv_cols] in place, at the step's
  /// positions.
  virtual void rope(Rows qkv, const LayerShape& shape) = 0;
  /// Both head classes in one operation: each query sees the cache as it was before the chunk and
  /// the chunk's own keys and values, under its class's mask. qkv rotated; out [tokens,
  /// shape.out_cols].
  virtual void attention(Rows qkv, const LayerShape& shape, const KvLayer& cache, Rows out) = 0;
  /// Stores the chunk's keys and values where the plan says, each row filled up with zeros to its
  /// class's width.
  virtual void commit(Rows qkv, const LayerShape& shape, const KvLayer& cache) = 0;
  /// out = silu(gate) * up for rows [gate | up]. gate_up [n, 2 width], out [n, width].
  virtual void swiglu(Rows gate_up, Rows out) = 0;
  /// out = 0, whatever was there.
  virtual void clear(Rows out) = 0;
};

}  // namespace sedpa
