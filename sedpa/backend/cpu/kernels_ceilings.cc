// Loops that do nothing but read, or nothing but multiply: what the machine can give at best.
#include "sedpa/backend/cpu/kernels_table.h"
#include "sedpa/backend/cpu/simd.h"

namespace sedpa::cpu::SEDPA_ISA {
namespace {

std::uint64_t read_all(const std::byte* data, std::size_t bytes) {
  constexpr int kChains = 4;
  I32x16 sums[kChains];
  SEDPA_UNROLL for (int c = 0; c < kChains; ++c) sums[c] = zero_int();
  for (std::size_t at = 0; at + 256 <= bytes; at += 256) {
    SEDPA_UNROLL for (int c = 0; c < kChains; ++c) {
      sums[c] = sums[c] + load_ints(data + at + static_cast<std::size_t>(64 * c));
    }
  }
  return static_cast<std::uint64_t>(
      static_cast<std::uint32_t>(reduce_sum(sums[0] + sums[1] + sums[2] + sums[3])));
}

// Chains of additions: enough of them to hide the latency of one. Each begins with another number,
// or the compiler would see that one does for all.
constexpr int kChains = kAccumulators < 4 ? kAccumulators : (kAccumulators < 16 ? 5 : 16);

/// Makes the compiler believe that a value is read, so that the work for it stays.
template <class T>
SEDPA_INLINE void keep(const T& value) {
  asm volatile("" : : "m"(value) : "memory");
}

double f32_rounds(std::int64_t rounds) {
  F32x16 acc[kChains];
  SEDPA_UNROLL for (int c = 0; c < kChains; ++c) acc[c] = broadcast(static_cast<float>(c));
  const F32x16 a = broadcast(1.0f);
  const F32x16 b = broadcast(0x1p-30f);
  for (std::int64_t i = 0; i < rounds; ++i) {
    SEDPA_UNROLL for (int c = 0; c < kChains; ++c) acc[c] = fma(a, b, acc[c]);
  }
  keep(acc);
  return static_cast<double>(rounds) * kChains * 16 * 2;
}

// How products of codes are multiplied: by bytes, or by 16-bit numbers, of which each counts as the
// two of bytes that it stands for.
#if SEDPA_ISA_LEVEL == 1
constexpr int kCodeChains =
    3;  // an addition takes one cycle; products and codes want registers, too
SEDPA_INLINE I16x32 some_codes() { return broadcast_word(1); }
SEDPA_INLINE I32x16 add_product(I32x16 sum, I16x32 codes, const std::int8_t* x) {
  return dot2(sum, codes, x);
}
#else
constexpr int kCodeChains = kChains;
SEDPA_INLINE U8x64 some_codes() { return broadcast_byte(1); }
SEDPA_INLINE I32x16 add_product(I32x16 sum, U8x64 codes, const std::int8_t* x) {
  return dot4(sum, codes, x);
}
#endif

double int8_rounds(std::int64_t rounds) {
  I32x16 acc[kCodeChains];
  SEDPA_UNROLL for (int c = 0; c < kCodeChains; ++c) acc[c] = broadcast_int(c);
  const auto codes = some_codes();
  std::int8_t x[4 * kCodeChains] = {};
  for (std::int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+m"(x));  // other numbers, as far as the compiler knows
    SEDPA_UNROLL for (int c = 0; c < kCodeChains; ++c) {
      acc[c] = add_product(acc[c], codes, x + 4 * c);
    }
  }
  SEDPA_UNROLL for (int c = 1; c < kCodeChains; ++c) acc[0] = acc[0] + acc[c];
  const I32x16 sum = acc[0];  // keeping all of them would put them into memory
  keep(sum);
  return static_cast<double>(rounds) * kCodeChains * 64 * 2;
}

double bf16_rounds(std::int64_t rounds) {
#if SEDPA_ISA_LEVEL == 2
  F32x16 acc[kChains];
  SEDPA_UNROLL for (int c = 0; c < kChains; ++c) acc[c] = broadcast(static_cast<float>(c));
  const Bf16x32 a = make_pairs(broadcast(1.0f), broadcast(0x1p-30f));
  for (std::int64_t i = 0; i < rounds; ++i) {
    SEDPA_UNROLL for (int c = 0; c < kChains; ++c) acc[c] = dot2(acc[c], a, a);
  }
  keep(acc);
  return static_cast<double>(rounds) * kChains * 32 * 2;
#else
  return f32_rounds(rounds);
#endif
}

}  // namespace

void fill_ceilings(Kernels& table) {
  table.read_all = read_all;
  table.int8_rounds = int8_rounds;
  table.bf16_rounds = bf16_rounds;
  table.f32_rounds = f32_rounds;
}

}  // namespace sedpa::cpu::SEDPA_ISA
