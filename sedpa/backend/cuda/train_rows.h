#pragma once
// Training's operations on each row by itself: gradients of norms and SwiGLU, RoPE of any row,
// gates, loss. What they do is said in ops/train_ops.h; all in full stream order.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "sedpa/core/checked.h"
#include "sedpa/ops/train_ops.h"

namespace sedpa::cuda {

void store_rows(Rows from, StoredRows to, cudaStream_t stream);

/// What RoPE needs of a model; frequencies in device memory.
struct RopeParams {
  const double* inverse_frequency = nullptr;  // [pairs]
  double magnitude = 1;
  int pairs = 0;
  bool neighbours = false;
  int heads = 0;  // query and key heads, side by side
  int head_dim = 0;
};
/// `forward` false: turned back.
void turn_rows(Rows qkv, std::int64_t first, bool forward, const RopeParams& rope,
               cudaStream_t stream);

/// `head_cols`: columns that share a gate.
void mix_heads(Rows gates, StoredRows full, Rows windowed, std::int64_t head_cols, Rows out,
               cudaStream_t stream);
/// `parts` [gates.cols, mix_parts(d_out.rows)]: sums of some rows each.
void mix_heads_backward(Rows gates, StoredRows full, Rows windowed, std::int64_t head_cols,
                        Rows d_out, Rows d_gates, Rows d_windowed, float* parts,
                        cudaStream_t stream);
inline constexpr std::int64_t kMixRows = 32;
constexpr std::int64_t mix_parts(std::int64_t rows) { return ceil_div(rows, kMixRows); }

/// Over each run of `width` columns.
void norm_backward(Rows x, const float* weight, std::int64_t width, float epsilon, Rows d_out,
                   Rows residual, Rows d_x, cudaStream_t stream);
void swiglu_backward(Rows gate_up, Rows d_out, Rows d_gate_up, cudaStream_t stream);
void mean_squared_error(Rows x, Rows target, Rows loss, Rows d_x, cudaStream_t stream);

}  // namespace sedpa::cuda
