#include "sedpa/backend/cpu/elementwise.h"

#include <algorithm>
#include <cmath>

#include "sedpa/backend/cpu/row_loop.h"
#include "sedpa/backend/cpu/weights.h"
#include "sedpa/core/fail.h"

namespace sedpa::cpu {
namespace {

// Planes are told by a byte.
constexpr std::int64_t kMostPlanes = 256;

std::int64_t rope_pairs(const OpsPlan& plan) { return plan.rope.dim / 2; }

}  // namespace

void form_angles(ThreadPool& pool, const RopeSpec& rope, std::int64_t first, std::int64_t count,
                 float* cos, float* sin) {
  const std::int64_t pairs = rope.dim / 2;
  // A sine costs as much as some tens of the numbers that for_rows counts.
  for_rows(pool, count, pairs * 32, [&](std::int64_t row) {
    const auto position = static_cast<double>(first + row);
    for (std::int64_t i = 0; i < pairs; ++i) {
      const double angle = position * rope.inverse_frequency[static_cast<std::size_t>(i)];
      cos[row * pairs + i] = static_cast<float>(std::cos(angle) * rope.magnitude);
      sin[row * pairs + i] = static_cast<float>(std::sin(angle) * rope.magnitude);
    }
  });
}

std::size_t ElementwiseRunner::scratch_bytes(const OpsPlan& plan) {
  return static_cast<std::size_t>(plan.max_tokens * (2 * rope_pairs(plan) + 1)) * 4;
}

void ElementwiseRunner::reserve(const OpsPlan& plan) {
  if (plan.rope.dim % 2 != 0 || plan.rope.dim < 0 || plan.rope.dim > plan.attention.head_dim ||
      static_cast<std::int64_t>(plan.rope.inverse_frequency.size()) != rope_pairs(plan)) {
    fail("RoPE of {} numbers with {} frequencies does not fit heads of {}", plan.rope.dim,
         plan.rope.inverse_frequency.size(), plan.attention.head_dim);
  }
  scratch_ = Pages();
  scratch_ = Pages(scratch_bytes(plan));
  rope_ = plan.rope;
  attention_ = plan.attention;
  max_tokens_ = plan.max_tokens;
  tokens_count_ = 0;
  cos_ = reinterpret_cast<float*>(scratch_.data());
  sin_ = cos_ + max_tokens_ * rope_pairs(plan);
  tokens_ = reinterpret_cast<std::int32_t*>(sin_ + max_tokens_ * rope_pairs(plan));
}

void ElementwiseRunner::begin_step(const Step& step) {
  const auto count = static_cast<std::int64_t>(step.tokens.size());
  if (count > max_tokens_) fail("a step of {} tokens exceeds the planned {}", count, max_tokens_);
  tokens_count_ = count;
  std::copy(step.tokens.begin(), step.tokens.end(), tokens_);
  form_angles(pool_, rope_, step.past, count, cos_, sin_);
}

void ElementwiseRunner::embed(const Weight& table, Rows out) {
  if (out.rows != tokens_count_ || out.cols != table.cols) {
    fail("embed was asked for [{}, {}], the step has [{}, {}]", out.rows, out.cols, tokens_count_,
         table.cols);
  }
  // Threads must not throw: bad ids are found before.
  for (std::int64_t row = 0; row < out.rows; ++row) {
    if (tokens_[row] < 0 || tokens_[row] >= table.rows) {
      fail("token {} is not in the vocabulary of {}", tokens_[row], table.rows);
    }
  }
  for_rows(pool_, out.rows, out.cols * 4,
           [&](std::int64_t row) { read_row(table, tokens_[row], out.row(row)); });
}

void ElementwiseRunner::rms_norm(Rows x, const Vector& weight, float eps, Rows out) {
  for_rows(pool_, x.rows, x.cols, [&](std::int64_t row) {
    kernels_.rms_norm(x.row(row), weight.data, weight.size, eps, out.row(row));
  });
}

void ElementwiseRunner::head_norm(Rows x, const Vector& weight, float eps, Rows out) {
  for_rows(pool_, x.rows, x.cols, [&](std::int64_t row) {
    for (std::int64_t at = 0; at + weight.size <= x.cols; at += weight.size) {
      kernels_.rms_norm(x.row(row) + at, weight.data, weight.size, eps, out.row(row) + at);
    }
  });
}

void ElementwiseRunner::rope(Rows qkv, const LayerShape& shape) {
  const std::int64_t angles = rope_.dim / 2;
  const std::int64_t planes = attention_.head_dim / 2;
  const std::int32_t group = attention_.group();
  const auto rotate =
      rope_.style == RopeStyle::neighbours ? kernels_.rotate_neighbours : kernels_.rotate_halves;
  for_rows(pool_, qkv.rows, shape.value_begin, [&](std::int64_t row) {
    float* const numbers = qkv.row(row);
    const float* cos = cos_ + row * angles;
    const float* sin = sin_ + row * angles;
    const auto rotate_head = [&](const HeadColumns& head, const float* head_cos,
                                 const float* head_sin, std::int64_t pairs) {
      for (std::int32_t g = 0; g < group; ++g) {
        rotate(numbers + head.query + g * head.key_dim, head_cos, head_sin, pairs);
      }
      rotate(numbers + head.key, head_cos, head_sin, pairs);
    };
    for (std::size_t i = 0; i < shape.heads.size(); ++i) {
      const HeadColumns& head = shape.heads[i];
      if (shape.planes == nullptr) {
        rotate_head(head, cos, sin, angles);
        continue;
      }
      // The angles of the planes that the head has kept, side by side.
      const std::uint8_t* kept = shape.planes + static_cast<std::int64_t>(i) * planes;
      float own_cos[kMostPlanes];
      float own_sin[kMostPlanes];
      const std::int64_t pairs = head.key_dim / 2;
      for (std::int64_t pair = 0; pair < pairs; ++pair) {
        own_cos[pair] = cos[kept[pair]];
        own_sin[pair] = sin[kept[pair]];
      }
      rotate_head(head, own_cos, own_sin, pairs);
    }
  });
}

void ElementwiseRunner::swiglu(Rows gate_up, Rows out) {
  for_rows(pool_, out.rows, out.cols * 2,
           [&](std::int64_t row) { kernels_.swiglu(gate_up.row(row), out.cols, out.row(row)); });
}

}  // namespace sedpa::cpu
