#pragma once
// What stands around the matrix products of many rows: activations packed for them, weights decoded
// for them, SwiGLU and bias; and rows of a table for embedding. All in full stream order.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "sedpa/backend/cuda/weight_format.h"
#include "sedpa/core/dtype.h"
#include "sedpa/core/tensor.h"

namespace sedpa::cuda {

/// Columns that a packed row of `cols` has: the rest, up to 16 bytes of 2-byte numbers, is zero.
constexpr std::int64_t packed_cols(std::int64_t cols) { return round_up(cols, std::int64_t{8}); }

/// norm(x) as `type` (f32, f16 or bf16; f16 is held within +-65504), row by row. norm_weight
/// [cols], null: no norm. out [rows, packed_cols(cols)].
void pack_rows(Rows x, const float* norm_weight, float epsilon, Dtype type, std::byte* out,
               cudaStream_t stream);

/// What decode_rows makes of rows of a type.
constexpr Dtype decoded_type(Dtype dtype) { return dtype == Dtype::f32 ? Dtype::f32 : Dtype::bf16; }
/// Rows of a band as numbers. out [padded, packed_cols(cols)] of decoded_type(dtype); rows from
/// `count` on are zero.
void decode_rows(Dtype dtype, const std::byte* rows, std::int64_t count, std::int64_t cols,
                 std::int64_t padded, std::byte* out, cudaStream_t stream);

/// out[t] = row ids[t] - first of a band, where it has that row; other out rows are left alone.
void embed_rows(Dtype dtype, const std::byte* rows, std::int64_t first, std::int64_t count,
                const std::int32_t* ids, Rows out, cudaStream_t stream);

/// out[t][i] += bias[i]. bias [out.cols].
void add_bias(const float* bias, Rows out, cudaStream_t stream);

/// gate[t][i] = silu(gate[t][i]) * up[t][i], in place. Same shapes.
void swiglu_in_place(Rows gate, Rows up, cudaStream_t stream);

/// The same for bf16 rows [gate | up] of `width` numbers each, biases added first (bias [2 width],
/// null: none). A row is [2 packed_cols(width)], up begins in its middle; what replaces gate is
/// padded with zeros, so that it serves as a packed row with that stride.
void swiglu_packed(std::byte* gate_up, std::int64_t rows, std::int64_t width, const float* bias,
                   cudaStream_t stream);

}  // namespace sedpa::cuda
