#include "sedpa/backend/cuda/window_attention.h"

#include "sedpa/backend/cuda/attention_params.h"
#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

constexpr std::int64_t kMostRows = std::int64_t{1} << 30;

bool is_aligned(const Rows& rows) {
  return reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.stride % 4 == 0;
}

std::size_t delta_bytes(const TrainPlan& plan) {
  return static_cast<std::size_t>(plan.max_rows * plan.attention.query_heads) * sizeof(float);
}

}  // namespace

std::size_t WindowAttention::scratch_bytes(const TrainPlan& plan) {
  const std::int64_t numbers =
      plan.max_rows * 2 * plan.attention.kv_heads * plan.attention.head_dim;
  return delta_bytes(plan) + static_cast<std::size_t>(numbers) * sizeof(float);
}

void WindowAttention::reserve(const TrainPlan& plan) {
  if (plan.max_rows > kMostRows) {
    fail("training over {} rows: the CUDA backend takes up to {}", plan.max_rows, kMostRows);
  }
  if (plan.attention.head_dim > kMostHeadDim) {
    fail("attention has head size {}: the CUDA backend trains sizes up to {}",
         plan.attention.head_dim, kMostHeadDim);
  }
  shape_ = plan.attention;
  max_rows_ = plan.max_rows;
  scratch_ = DeviceMemory();
  scratch_ = DeviceMemory(scratch_bytes(plan));
  delta_ = reinterpret_cast<float*>(scratch_.data());
  sink_parts_ = reinterpret_cast<float*>(scratch_.data() + delta_bytes(plan));
  prepare_window(shape_.head_dim);
}

WindowParams WindowAttention::params(Rows qkv, const HeadClass& window, Rows out, Rows lse) const {
  if (window.full || window.middle != 0) {
    fail("training's attention takes a window of first and last tokens, nothing else");
  }
  if (qkv.rows > max_rows_) {
    fail("training's attention was given {} rows, but {} were reserved", qkv.rows, max_rows_);
  }
  return {.mask = {.rows = static_cast<std::int32_t>(qkv.rows),
                   .sink = window.sink,
                   .recent = window.recent},
          .qkv = qkv,
          .out = out,
          .lse = lse,
          .d_out = {},
          .d_qkv = {},
          .delta = delta_,
          .sink_parts = sink_parts_,
          .query_heads = shape_.query_heads,
          .kv_heads = shape_.kv_heads,
          .dim = shape_.head_dim,
          .key_begin = shape_.key_begin(),
          .value_begin = shape_.value_begin(),
          .scale = shape_.scale,
          .aligned = is_aligned(qkv) && shape_.head_dim % 4 == 0};
}

void WindowAttention::forward(Rows qkv, const HeadClass& window, Rows out, Rows lse) {
  const WindowParams p = params(qkv, window, out, lse);
  if (qkv.rows > 0) window_forward(p, stream_);
}

void WindowAttention::backward(Rows qkv, const HeadClass& window, Rows out, Rows lse, Rows d_out,
                               Rows d_qkv) {
  WindowParams p = params(qkv, window, out, lse);
  p.d_out = d_out;
  p.d_qkv = d_qkv;
  p.aligned = p.aligned && is_aligned(d_out);
  if (qkv.rows > 0) window_backward(p, stream_);
}

}  // namespace sedpa::cuda
