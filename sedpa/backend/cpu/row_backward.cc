#include "sedpa/backend/cpu/row_backward.h"

#include <algorithm>
#include <cstring>

#include "sedpa/backend/cpu/elementwise.h"
#include "sedpa/backend/cpu/row_loop.h"
#include "sedpa/core/fail.h"

namespace sedpa::cpu {
namespace {

std::int64_t angles(const TrainPlan& plan) { return plan.max_context * (plan.rope.dim / 2); }

}  // namespace

std::size_t RowBackward::scratch_bytes(const TrainPlan& plan) {
  return static_cast<std::size_t>(3 * angles(plan)) * sizeof(float);
}

void RowBackward::reserve(const TrainPlan& plan) {
  scratch_ = Pages();
  scratch_ = Pages(scratch_bytes(plan));
  rope_ = plan.rope;
  attention_ = plan.attention;
  max_context_ = plan.max_context;
  cos_ = reinterpret_cast<float*>(scratch_.data());
  sin_ = cos_ + angles(plan);
  minus_sin_ = sin_ + angles(plan);
  form_angles(pool_, rope_, 0, max_context_, cos_, sin_);
  std::transform(sin_, minus_sin_, minus_sin_, [](float x) { return -x; });
}

void RowBackward::store(Rows from, StoredRows to) {
  for_rows(pool_, from.rows, from.cols, [&](std::int64_t row) {
    std::byte* out = to.range(row, 1).data;
    if (to.dtype == Dtype::bf16) {
      kernels_.store_bf16(from.row(row), from.cols, out);
    } else {
      std::memcpy(out, from.row(row), static_cast<std::size_t>(from.cols) * sizeof(float));
    }
  });
}

void RowBackward::rope(Rows qkv, std::int64_t first, bool forward) {
  if (first < 0 || first + qkv.rows > max_context_) {
    fail("positions {} to {} were asked for, but {} were reserved", first, first + qkv.rows - 1,
         max_context_);
  }
  const std::int64_t pairs = rope_.dim / 2;
  const std::int64_t heads = attention_.query_heads + attention_.kv_heads;
  const float* sines = forward ? sin_ : minus_sin_;
  const auto rotate =
      rope_.style == RopeStyle::neighbours ? kernels_.rotate_neighbours : kernels_.rotate_halves;
  for_rows(pool_, qkv.rows, attention_.value_begin(), [&](std::int64_t row) {
    const std::int64_t at = (first + row) * pairs;
    for (std::int64_t head = 0; head < heads; ++head) {
      rotate(qkv.row(row) + head * attention_.head_dim, cos_ + at, sines + at, pairs);
    }
  });
}

void RowBackward::mix_heads(Rows gates, StoredRows full, Rows windowed, Rows out) {
  const std::int64_t cols = std::int64_t{attention_.group()} * attention_.head_dim;
  const bool bf16 = full.dtype == Dtype::bf16;
  for_rows(pool_, out.rows, out.cols, [&](std::int64_t row) {
    const std::byte* wide = full.range(row, 1).data;
    for (std::int64_t head = 0; head < gates.cols; ++head) {
      const std::int64_t at = head * cols;
      kernels_.mix(gates.data[head], wide + row_bytes(full.dtype, at), bf16, windowed.row(row) + at,
                   cols, out.row(row) + at);
    }
  });
}

// A thread takes a head through all rows, so that its sum has one order.
void RowBackward::mix_heads_backward(Rows gates, StoredRows full, Rows windowed, Rows d_out,
                                     Rows d_gates, Rows d_windowed) {
  const std::int64_t cols = std::int64_t{attention_.group()} * attention_.head_dim;
  const bool bf16 = full.dtype == Dtype::bf16;
  pool_.for_each(gates.cols, [&](std::int64_t head, int) {
    const std::int64_t at = head * cols;
    double sum = 0;
    for (std::int64_t row = 0; row < d_out.rows; ++row) {
      sum += double{kernels_.mix_backward(
          gates.data[head], full.range(row, 1).data + row_bytes(full.dtype, at), bf16,
          windowed.row(row) + at, d_out.row(row) + at, cols, d_windowed.row(row) + at)};
    }
    d_gates.data[head] += static_cast<float>(sum);
  });
}

void RowBackward::norm_backward(Rows x, const Vector& weight, float eps, Rows d_out, Rows residual,
                                Rows d_x) {
  for_rows(pool_, x.rows, x.cols, [&](std::int64_t row) {
    for (std::int64_t at = 0; at + weight.size <= x.cols; at += weight.size) {
      kernels_.rms_norm_backward(
          x.row(row) + at, weight.data, weight.size, eps, d_out.row(row) + at,
          residual.data != nullptr ? residual.row(row) + at : nullptr, d_x.row(row) + at);
    }
  });
}

void RowBackward::swiglu_backward(Rows gate_up, Rows d_out, Rows d_gate_up) {
  for_rows(pool_, d_out.rows, d_out.cols * 2, [&](std::int64_t row) {
    kernels_.swiglu_backward(gate_up.row(row), d_out.cols, d_out.row(row), d_gate_up.row(row));
  });
}

void RowBackward::mean_squared_error(Rows x, Rows target, Rows loss, Rows d_x) {
  const double count = static_cast<double>(x.rows) * static_cast<double>(x.cols);
  const auto slope = static_cast<float>(2 / count);
  double sum = 0;
  for (std::int64_t row = 0; row < x.rows; ++row) {
    for (std::int64_t i = 0; i < x.cols; ++i) {
      const float difference = x.row(row)[i] - target.row(row)[i];
      sum += double{difference} * double{difference};
      d_x.row(row)[i] = slope * difference;
    }
  }
  loss.data[0] = static_cast<float>(sum / count);
}

}  // namespace sedpa::cpu
