// Encoding head vectors as cache rows, and the table of all attention kernels.
#include "sedpa/backend/cpu/attention_kernels_table.h"
#include "sedpa/backend/cpu/attention_rows.h"

namespace sedpa::cpu::SEDPA_ISA {
namespace {

void store_half(std::byte* to, float value) { store_f16_partial(to, broadcast(value), 1); }

// Largest and smallest of a block of up to 32 numbers.
struct Extremes {
  float highest;
  float lowest;
};
Extremes extremes(const float* x, std::int64_t count) {
  Extremes e = {x[0], x[0]};
  for (std::int64_t i = 1; i < count; ++i) {
    e.highest = x[i] > e.highest ? x[i] : e.highest;
    e.lowest = x[i] < e.lowest ? x[i] : e.lowest;
  }
  return e;
}

// To the nearest whole number within [lowest, highest]; NaN becomes `lowest`.
int to_code(float x, float lowest, float highest) {
  x = x > lowest ? x : lowest;
  x = x < highest ? x : highest;
  return static_cast<int>(x + (x < 0.0f ? -0.5f : 0.5f));
}

// q8 as ggml's Q8_0: scale = amax / 127. q4 as its Q4_0: the number of largest size, sign kept,
// becomes code 0 (that is -8), scale = that number / -8.
void encode_blocks(bool four_bits, const float* x, std::int64_t dim, std::int64_t row_dim,
                   std::byte* row) {
  const std::int64_t blocks = (row_dim + kKvBlock - 1) / kKvBlock;
  std::byte* codes = row + 2 * blocks;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t first = block * kKvBlock;
    const std::int64_t left = row_dim - first;
    const std::int64_t count = left < kKvBlock ? left : kKvBlock;
    const float* from = x + first;
    float filled[kKvBlock] = {};
    if (dim < first + count) {
      if (dim > first)
        std::memcpy(filled, from, sizeof(float) * static_cast<std::size_t>(dim - first));
      from = filled;
    }
    const Extremes e = extremes(from, count);
    const float high_size = e.highest;
    const float low_size = -e.lowest;
    if (four_bits) {
      const float scale = (high_size >= low_size ? e.highest : e.lowest) / -8.0f;
      const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
      store_half(row + 2 * block, scale);
      for (std::int64_t i = 0; i < count; i += 2) {
        const int low = to_code(from[i] * inverse, -8.0f, 7.0f) + 8;
        const int high = to_code(from[i + 1] * inverse, -8.0f, 7.0f) + 8;
        codes[i / 2] = static_cast<std::byte>(low | high << 4);
      }
      codes += count / 2;
    } else {
      const float amax = __builtin_fabsf(high_size > low_size ? high_size : low_size);
      const float scale = amax / 127.0f;
      const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
      store_half(row + 2 * block, scale);
      for (std::int64_t i = 0; i < count; ++i) {
        codes[i] = static_cast<std::byte>(
            static_cast<std::int8_t>(to_code(from[i] * inverse, -127.0f, 127.0f)));
      }
      codes += count;
    }
  }
}

void encode(KvDtype dtype, const float* x, std::int64_t dim, std::int64_t row_dim, std::byte* row) {
  const auto behind = static_cast<std::size_t>(row_dim - dim);
  switch (dtype) {
    case KvDtype::f32:
      std::memcpy(row, x, sizeof(float) * static_cast<std::size_t>(dim));
      std::memset(row + 4 * dim, 0, 4 * behind);
      return;
    case KvDtype::f16:
    case KvDtype::bf16:
      for (std::int64_t i = 0; i < dim; i += 16) {
        const std::int64_t count = dim - i < 16 ? dim - i : 16;
        const F32x16 numbers = load_partial(x + i, count);
        if (dtype == KvDtype::f16)
          store_f16_partial(row + 2 * i, numbers, count);
        else
          store_bf16_partial(row + 2 * i, numbers, count);
      }
      std::memset(row + 2 * dim, 0, 2 * behind);
      return;
    case KvDtype::q8:
    case KvDtype::q4:
      encode_blocks(dtype == KvDtype::q4, x, dim, row_dim, row);
      return;
  }
}

template <KvDtype kType>
void decode_row(const std::byte* row, std::int64_t dim, float* x) {
  const RowReader<kType> read(dim);
  std::int64_t i = 0;
  for (; i + 16 <= dim; i += 16) store(x + i, read(row, i / 16));
  if (i < dim) store_partial(x + i, read.part(row, i / 16, dim - i), dim - i);
}

void decode(KvDtype dtype, const std::byte* row, std::int64_t dim, float* x) {
#define SEDPA_DECODE(TYPE) decode_row<TYPE>(row, dim, x)
  SEDPA_FOR_KV_DTYPE(dtype, SEDPA_DECODE)
#undef SEDPA_DECODE
}

}  // namespace

const AttentionKernels& attention_table() {
  static const AttentionKernels table = [] {
    AttentionKernels filled = {};
    filled.encode = encode;
    filled.decode = decode;
    fill_tile_attention(filled);
    fill_direct_attention(filled);
    return filled;
  }();
  return table;
}

}  // namespace sedpa::cpu::SEDPA_ISA
