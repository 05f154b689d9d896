// Inputs of products: tokens interleaved in tiles, as floats, bf16 pairs or bytes.
#include "sedpa/backend/cpu/kernels_product.h"
#include "sedpa/backend/cpu/kernels_table.h"
#include "sedpa/backend/cpu/panel_quantized.h"

namespace sedpa::cpu::SEDPA_ISA {
namespace {

/// Token t of a tile, or nothing for those that pad it.
SEDPA_INLINE const float* token_row(const PackInput& job, int t) {
  return t < job.tokens ? job.x + t * job.stride : nullptr;
}

template <int T>
void pack_f32_tile(const PackInput& job) {
  auto* out = reinterpret_cast<float*>(job.tile);  // [cols][T]
  if constexpr (T == 1) {
    std::memcpy(out, job.x, static_cast<std::size_t>(job.cols) * sizeof(float));
    return;
  }
  for (int t = 0; t < T; ++t) {
    const float* x = token_row(job, t);
    for (std::int64_t k = 0; k < job.cols; ++k) out[k * T + t] = x != nullptr ? x[k] : 0.0f;
  }
}

void pack_f32(const PackInput& job) {
  with_width(job.tokens, [&]<int T>(Width<T>) { pack_f32_tile<T>(job); });
  // bf16 panels without bf16 products store an even number of columns.
  if (job.cols % 2 != 0) {
    const int width = tile_width(job.tokens);
    std::memset(job.tile + job.cols * width * 4, 0, static_cast<std::size_t>(width) * 4);
  }
}

#if SEDPA_ISA_LEVEL == 2
template <int T>
void pack_bf16_tile(const PackInput& job) {
  for (int t = 0; t < T; ++t) {
    const float* x = token_row(job, t);
    std::byte* out = job.tile + 4 * t;  // [cols / 2][T][2]
    for (std::int64_t k = 0; k < job.cols; k += 16) {
      const std::int64_t count = job.cols - k < 16 ? job.cols - k : 16;
      std::uint32_t pairs[8];
      store_bf16(pairs, x != nullptr ? load_partial(x + k, count) : zero());
      for (std::int64_t i = 0; i < (count + 1) / 2; ++i, out += 4 * T) {
        std::memcpy(out, &pairs[i], 4);
      }
    }
  }
}

void pack_bf16(const PackInput& job) {
  with_width(job.tokens, [&]<int T>(Width<T>) { pack_bf16_tile<T>(job); });
}
#endif

/// Halves of smaller numbers than this count as zeros: 127 divided by them would be infinite.
constexpr float kNothingBelow = 1e-30f;

/// Two groups of 32 numbers of token t as bytes, and what products with them need: four halves at
/// once, because sums across a vector cost more than all else. With kCount = 1 only the first.
template <int T, int kCount>
SEDPA_INLINE void quantize_groups(const float* x, int t, std::byte* groups) {
  F32x16 half[4] = {zero(), zero(), zero(), zero()};
  F32x16 magnitude[4];
  SEDPA_UNROLL for (int h = 0; h < 4; ++h) {
    if (h < 2 * kCount) half[h] = load(x + 16 * h);
    magnitude[h] = abs(half[h]);
  }
  float largest[4];
  reduce_max_4(magnitude, largest);

  I32x16 codes[4] = {zero_int(), zero_int(), zero_int(), zero_int()};
  SEDPA_UNROLL for (int h = 0; h < 2 * kCount; ++h) {
    const float inverse = largest[h] > kNothingBelow ? 127.0f / largest[h] : 0.0f;
    codes[h] = to_int(half[h] * broadcast(inverse));
    store_i8(groups + (h / 2) * T * kInputGroupBytes + 32 * t + 16 * (h % 2), codes[h]);
  }
  std::int32_t sum[4];
  reduce_sum_4(codes, sum);

  SEDPA_UNROLL for (int g = 0; g < kCount; ++g) {
    std::byte* group = groups + g * T * kInputGroupBytes + 4 * t;
    float scaled_sum = 0;
    SEDPA_UNROLL for (int h = 0; h < 2; ++h) {
      const float scale = largest[2 * g + h] * (1.0f / 127.0f);
      scaled_sum += scale * static_cast<float>(sum[2 * g + h]);
      // NaN has become the smallest int, which has no negative: wrap.
      const std::uint32_t minus_sum = 0U - static_cast<std::uint32_t>(sum[2 * g + h]);
      std::memcpy(group + (32 + 4 * h) * T, &scale, 4);
      std::memcpy(group + (44 + 4 * h) * T, &minus_sum, 4);
    }
    std::memcpy(group + 40 * T, &scaled_sum, 4);
  }
}

template <int T>
void pack_int8_tile(const PackInput& job) {
  static constexpr float kNothing[2 * kGroup] = {};
  for (int t = 0; t < T; ++t) {
    const float* row = token_row(job, t);
    std::byte* at = job.tile;
    std::int64_t k = 0;
    for (; k + 2 * kGroup <= job.cols; k += 2 * kGroup, at += 2 * T * kInputGroupBytes) {
      quantize_groups<T, 2>(row != nullptr ? row + k : kNothing, t, at);
    }
    if (k < job.cols) quantize_groups<T, 1>(row != nullptr ? row + k : kNothing, t, at);
  }
}

void pack_int8(const PackInput& job) {
  with_width(job.tokens, [&]<int T>(Width<T>) { pack_int8_tile<T>(job); });
}

}  // namespace

void fill_packing(Kernels& table) {
  table.pack[static_cast<int>(InputForm::f32)] = pack_f32;
  table.pack[static_cast<int>(InputForm::int8)] = pack_int8;
#if SEDPA_ISA_LEVEL == 2
  table.pack[static_cast<int>(InputForm::bf16)] = pack_bf16;
#else
  table.pack[static_cast<int>(InputForm::bf16)] = nullptr;  // no panel takes it
#endif
}

}  // namespace sedpa::cpu::SEDPA_ISA
