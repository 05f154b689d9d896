#pragma once
// What the kernels of training's windowed attention are told, and the functions that launch them.
// Plain structs for host and device.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "sedpa/backend/cuda/window_tiles.h"
#include "sedpa/core/tensor.h"

namespace sedpa::cuda {

/// Rows [0, mask.rows) of one call (TrainOps::window_attention and its gradient).
struct WindowParams {
  WindowMask mask;
  Rows qkv;
  Rows out;
  Rows lse;
  Rows d_out;  // these of the gradient only
  Rows d_qkv;
  float* delta = nullptr;       // [rows, query_heads]: d_out . out
  float* sink_parts = nullptr;  // [runs][kv_heads][sinks][key, value][dim]
  int query_heads = 0;
  int kv_heads = 0;
  int dim = 0;
  std::int64_t key_begin = 0;  // columns of qkv
  std::int64_t value_begin = 0;
  float scale = 0;
  bool aligned = false;  // all vectors begin at, and are, multiples of 16 bytes
};

/// Once, before kernels for heads of `dim` numbers are launched.
void prepare_window(int dim);
void window_forward(const WindowParams& params, cudaStream_t stream);
void window_backward(const WindowParams& params, cudaStream_t stream);

}  // namespace sedpa::cuda
