#pragma once
// What every operation of sedpa/ops/train_ops.h means: plain loops over doubles, written for
// reading. train_reference_test.cc holds the gradients against central differences.
#include <span>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/ops/step.h"
#include "tests/ops_conformance/reference.h"

namespace sedpa::conformance::reference {

/// d_x of out = rms_norm(x), for every group of `width` columns.
Matrix rms_norm_backward(const Matrix& x, std::span<const float> weight, double eps,
                         std::int64_t width, const Matrix& d_out);

/// [cols, rows]
Matrix transposed(const Matrix& m);

/// d_qkv before the rotation from d_qkv behind it; row t is at position first + t.
Matrix rope_backward(const RopeSpec& rope, std::int64_t heads, std::int64_t head_dim,
                     std::int64_t first, const Matrix& d_qkv);

Matrix swiglu_backward(const Matrix& gate_up, const Matrix& d_out);

/// Attention of rows [0, n), the whole sequence, under a head class.
struct SequenceAttention {
  Matrix out;  // [n, out_cols]
  Matrix lse;  // [n, query_heads]
};
SequenceAttention sequence_attention(const AttentionShape& shape, const HeadClass& head_class,
                                     const Matrix& qkv);
/// d_qkv. `magnitude`, when given, gets for each number the sum of the absolute values of what it
/// is made of: errors are relative to that.
Matrix sequence_attention_backward(const AttentionShape& shape, const HeadClass& head_class,
                                   const Matrix& qkv, const Matrix& d_out,
                                   Matrix* magnitude = nullptr);

/// gates [kv_heads]
Matrix mix_heads(std::span<const double> gates, const Matrix& full, const Matrix& windowed);
/// Adds to d_gates [kv_heads], returns d_windowed.
Matrix mix_heads_backward(std::span<const double> gates, const Matrix& full, const Matrix& windowed,
                          const Matrix& d_out, std::span<double> d_gates);

double mean_squared_error(const Matrix& x, const Matrix& target);
Matrix mean_squared_error_backward(const Matrix& x, const Matrix& target);

}  // namespace sedpa::conformance::reference
