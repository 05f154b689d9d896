#pragma once
#include <cstddef>
#include <cstdint>

#include "sedpa/core/dtype.h"

namespace sedpa {

// The meaning of every stored element type, written to be read: kernels have their own faster
// ways, tests hold those to these. Blocks are ggml's (ggml-common.h, ggml-quants.c). `cols` is a
// multiple of block_size(dtype); rows need no alignment.

/// Numbers of one stored row. `row` holds row_bytes(dtype, cols), `out` takes cols.
void dequantize_row(Dtype dtype, const std::byte* row, std::int64_t cols, float* out);

/// One row in ggml's simple reference rounding. Throws Error for types that are only read:
/// q4_k, q5_k, q6_k, iq4_nl.
void quantize_row(Dtype dtype, const float* in, std::int64_t cols, std::byte* out);

/// Blocks of 32: f16 scale d = max|x| / 127, then 32 signed bytes round(x / d), halves away from 0.
void quantize_row_q8_0(const float* in, std::int64_t cols, std::byte* out);

/// Scale and minimum of one of the eight groups of a q4_k or q5_k block: 6 bits each, all of them
/// packed in 12 bytes.
struct KScale {
  std::uint8_t scale = 0;
  std::uint8_t minimum = 0;
};
[[nodiscard]] KScale k_scale(const std::byte* packed, int group);

}  // namespace sedpa
