#pragma once
// The other half of the seam: what training the gates needs besides the forward operations
// (model/backward.cc calls it). Weights are frozen: gradients are those of activations and gates.
//
// The laws of ops.h hold, and:
// 1. A TrainOps is the same stream of work as the Ops that gave it, so an operation sees what was
//    asked for before, of either; `store` may be called from the middle of a pass (an observer) and
//    then sees the pass so far.
// 2. Nothing here looks at step state. Rows are rows: an operation may be given any run of them, up
//    to what was reserved, and rows do not know their neighbours, but in window_attention.
// 3. `d_x` is the gradient of the loss with respect to x and has the shape of x. A gradient is
//    written, not added to, but for d_gates.
// 4. The same calls give the same bits.
#include <cstddef>
#include <cstdint>

#include "sedpa/attention/head_plan.h"
#include "sedpa/core/dtype.h"
#include "sedpa/core/tensor.h"
#include "sedpa/ops/step.h"
#include "sedpa/ops/weight.h"

namespace sedpa {

/// Rows that are kept for long, f32 or bf16, dense: row i begins at i * cols numbers.
struct StoredRows {
  std::byte* data = nullptr;
  Dtype dtype = Dtype::bf16;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  /// Rows [begin, begin + count).
  [[nodiscard]] StoredRows range(std::int64_t begin, std::int64_t count) const {
    return {data + begin * row_bytes(dtype, cols), dtype, count, cols};
  }
};

/// The largest that any training pass of a model will ask for.
struct TrainPlan {
  AttentionShape attention;
  RopeSpec rope;
  std::int64_t max_tokens = 0;   // rows of a linear
  std::int64_t max_rows = 0;     // rows of a window attention
  std::int64_t max_context = 0;  // positions lie below it
  std::int64_t max_cols = 0;     // widest input or output of a linear
  std::int64_t max_rank = 0;     // widest intermediate of a low-rank linear; 0 when there is none
};

class TrainOps {
 public:
  virtual ~TrainOps();

  // --- Memory -------------------------------------------------------------------------------
  /// Exactly what `reserve` allocates for a plan.
  [[nodiscard]] virtual std::size_t scratch_bytes(const TrainPlan& plan) const = 0;
  /// Makes room for every pass within the plan, beside what Ops::reserve did. Call again for
  /// another plan.
  virtual void reserve(const TrainPlan& plan) = 0;
  /// to = from, rounded to nearest even where it is bf16. Same shape.
  virtual void store(Rows from, StoredRows to) = 0;

  // --- Positions ----------------------------------------------------------------------------
  /// Rotates the query and key heads of qkv [n, qkv_cols] in place, row i at position first + i.
  virtual void rope(Rows qkv, std::int64_t first) = 0;
  /// d_qkv in place, from behind the rotation to before it: turned back by the same angles (and
  /// multiplied by the same magnitude). The values' columns stay.
  virtual void rope_backward(Rows d_qkv, std::int64_t first) = 0;

  // --- Attention ----------------------------------------------------------------------------
  /// Every head under the mask of `window` (middle = 0), rows [0, n) being the whole sequence: row
  /// p sees row j when j <= p and (j < sink or p - j < recent). qkv [n, qkv_cols], rotated.
  /// out [n, out_cols]. lse [n, query_heads]: the natural logarithm of the sum of exp(scale q.k)
  /// over the keys that the row sees. Linear in n.
  virtual void window_attention(Rows qkv, const HeadClass& window, Rows out, Rows lse) = 0;
  /// The same qkv and window, the out and lse that came of them, and d_out [n, out_cols].
  /// d_qkv [n, qkv_cols]: with respect to the rotated queries, the rotated keys and the values.
  /// Overlaps nothing. Linear in n.
  virtual void window_attention_backward(Rows qkv, const HeadClass& window, Rows out, Rows lse,
                                         Rows d_out, Rows d_qkv) = 0;

  // --- Gates --------------------------------------------------------------------------------
  /// out = a full + (1 - a) windowed, a = gates[KV head of the column]. gates [1, kv_heads];
  /// full, windowed and out [n, out_cols]. out may be windowed.
  virtual void mix_heads(Rows gates, StoredRows full, Rows windowed, Rows out) = 0;
  /// d_windowed = (1 - a) d_out, which may be d_out itself.
  /// d_gates [1, kv_heads] += sum over the head's columns of all rows of d_out (full - windowed).
  virtual void mix_heads_backward(Rows gates, StoredRows full, Rows windowed, Rows d_out,
                                  Rows d_gates, Rows d_windowed) = 0;

  // --- Mirrors of the forward operations ----------------------------------------------------
  /// d_x = residual + (d out / d x)' d_out for out = rms_norm(x). residual's data may be null:
  /// none. d_x may be residual or d_out.
  virtual void rms_norm_backward(Rows x, const Vector& weight, float eps, Rows d_out, Rows residual,
                                 Rows d_x) = 0;
  /// The same for each head vector of weight.size numbers in a row, without a residual. d_x may be
  /// d_out.
  virtual void head_norm_backward(Rows x, const Vector& weight, float eps, Rows d_out,
                                  Rows d_x) = 0;
  /// d_x = W' d_out, of every stored type; b' (a' d_out) when the matrix is two factors.
  /// d_out [n, out], d_x [n, in]; they do not overlap.
  virtual void linear_backward(const Linear& weights, Rows d_out, Rows d_x) = 0;
  /// For out = silu(gate) * up. gate_up and d_gate_up [n, 2 width], d_out [n, width]. d_gate_up may
  /// be gate_up.
  virtual void swiglu_backward(Rows gate_up, Rows d_out, Rows d_gate_up) = 0;

  // --- Loss ---------------------------------------------------------------------------------
  /// loss [1, 1] = the mean of (x - target)^2 over all n x cols numbers; d_x its gradient. d_x may
  /// be x.
  virtual void mean_squared_error(Rows x, Rows target, Rows loss, Rows d_x) = 0;
};

}  // namespace sedpa
