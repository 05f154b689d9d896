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

/// Groups of smaller numbers than this count as zeros: what divides by them would be infinite.
constexpr float kNothingBelow = 1e-30f;
constexpr float kLargest = 127.0f * 128.0f;

/// kCount <= 4 groups of 32 numbers of token t as codes, and what products with them need.
/// Several at once, because sums across a vector cost more than all else.
template <int T, int kCount>
SEDPA_INLINE void quantize_groups(const float* x, int t, std::byte* groups) {
  F32x16 half[4][2];
  F32x16 magnitude[4] = {zero(), zero(), zero(), zero()};
  SEDPA_UNROLL for (int g = 0; g < kCount; ++g) {
    half[g][0] = load(x + 32 * g);
    half[g][1] = load(x + 32 * g + 16);
    magnitude[g] = max(abs(half[g][0]), abs(half[g][1]));
  }
  float largest[4];
  reduce_max_4(magnitude, largest);

  I32x16 half_sums[4] = {zero_int(), zero_int(), zero_int(), zero_int()};
  I32x16 sums[4] = {zero_int(), zero_int(), zero_int(), zero_int()};
  SEDPA_UNROLL for (int g = 0; g < kCount; ++g) {
    const F32x16 inverse = broadcast(largest[g] > kNothingBelow ? kLargest / largest[g] : 0.0f);
    SEDPA_UNROLL for (int h = 0; h < 2; ++h) {
      const I32x16 q = to_int(half[g][h] * inverse);
      store_input_half<T>(groups + g * T * kInputGroupBytes, t, h, q);
      sums[g] = sums[g] + q;
      if (h == 0) half_sums[g] = q;
    }
  }
  std::int32_t half_sum[4];
  std::int32_t sum[4];
  reduce_sum_4(half_sums, half_sum);
  reduce_sum_4(sums, sum);

  SEDPA_UNROLL for (int g = 0; g < kCount; ++g) {
    std::byte* group = groups + g * T * kInputGroupBytes + 4 * t;
    const float scale = largest[g] * (1.0f / kLargest);
    const float scaled_sum = scale * static_cast<float>(sum[g]);
    // NaN has become the smallest int, which has no negative: wrap.
    const std::uint32_t minus_sum = 0U - static_cast<std::uint32_t>(sum[g]);
    const std::uint32_t minus_half = 0U - static_cast<std::uint32_t>(half_sum[g]);
    std::memcpy(group + 64 * T, &scale, 4);
    std::memcpy(group + 68 * T, &scaled_sum, 4);
    std::memcpy(group + 72 * T, &minus_sum, 4);
    std::memcpy(group + 76 * T, &minus_half, 4);
  }
}

template <int T>
void pack_codes_tile(const PackInput& job) {
  static constexpr float kNothing[4 * kGroup] = {};
  for (int t = 0; t < T; ++t) {
    const float* row = token_row(job, t);
    std::byte* at = job.tile;
    std::int64_t k = 0;
    for (; k + 4 * kGroup <= job.cols; k += 4 * kGroup, at += 4 * T * kInputGroupBytes) {
      quantize_groups<T, 4>(row != nullptr ? row + k : kNothing, t, at);
    }
    for (; k < job.cols; k += kGroup, at += T * kInputGroupBytes) {
      quantize_groups<T, 1>(row != nullptr ? row + k : kNothing, t, at);
    }
  }
}

void pack_codes(const PackInput& job) {
  with_width(job.tokens, [&]<int T>(Width<T>) { pack_codes_tile<T>(job); });
}

}  // namespace

void fill_packing(Kernels& table) {
  table.pack[static_cast<int>(InputForm::f32)] = pack_f32;
  table.pack[static_cast<int>(InputForm::codes)] = pack_codes;
#if SEDPA_ISA_LEVEL == 2
  table.pack[static_cast<int>(InputForm::bf16)] = pack_bf16;
#else
  table.pack[static_cast<int>(InputForm::bf16)] = nullptr;  // no panel takes it
#endif
}

}  // namespace sedpa::cpu::SEDPA_ISA
