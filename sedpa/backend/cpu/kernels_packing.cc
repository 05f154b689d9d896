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

/// 32 numbers as bytes and what products with them need.
template <int T>
SEDPA_INLINE void quantize_group(const float* x, int t, std::byte* group) {
  const F32x16 a = load(x);
  const F32x16 b = load(x + 16);
  const float largest = reduce_max(max(abs(a), abs(b)));
  const float scale = largest / 127.0f;
  const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
  const I32x16 qa = to_int(a * broadcast(inverse));
  const I32x16 qb = to_int(b * broadcast(inverse));
  store_i8(group + 32 * t, qa);
  store_i8(group + 32 * t + 16, qb);
  const std::int32_t half = reduce_sum(qa);
  const std::int32_t sum = half + reduce_sum(qb);
  const float scaled_sum = scale * static_cast<float>(sum);
  const std::int32_t minus_sum = -sum;
  const std::int32_t minus_half = -half;
  std::memcpy(group + 32 * T + 4 * t, &scale, 4);
  std::memcpy(group + 36 * T + 4 * t, &scaled_sum, 4);
  std::memcpy(group + 40 * T + 4 * t, &minus_sum, 4);
  std::memcpy(group + 44 * T + 4 * t, &minus_half, 4);
}

template <int T>
void pack_int8_tile(const PackInput& job) {
  static constexpr float kNothing[32] = {};
  for (int t = 0; t < T; ++t) {
    const float* x = token_row(job, t);
    std::byte* group = job.tile;
    for (std::int64_t k = 0; k < job.cols; k += kGroup, group += T * kInputGroupBytes) {
      quantize_group<T>(x != nullptr ? x + k : kNothing, t, group);
    }
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
