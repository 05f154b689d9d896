#pragma once
// The thin vector layer under the CPU kernels: 16 lanes of 32 bits, whatever the machine has.
//
// Kernel sources are compiled once for each instruction set (see kernels.cmake), with
//   SEDPA_ISA        the namespace of this compilation: baseline, avx2 or avx512
//   SEDPA_ISA_LEVEL  0, 1 or 2
// Everything that such a source defines stands inside `sedpa::cpu::SEDPA_ISA`, so that the linker
// never mixes the compilations. For the same reason these sources use no inline code of the
// standard library.
//
//   F32x16   16 floats                       I32x16   16 ints
//   U8x64    16 lanes of 4 bytes             lane masks are 16 bits, bit i for lane i
// Loads and stores need no alignment.
#include <cstddef>
#include <cstdint>
#include <cstring>

// Loops over accumulators must unroll fully, or the accumulators live in memory.
#if defined(__clang__)
#define SEDPA_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SEDPA_UNROLL _Pragma("GCC unroll 32")
#endif
// A vector must not travel through memory at a call.
#define SEDPA_INLINE inline __attribute__((always_inline))

namespace sedpa::cpu::SEDPA_ISA {

/// Numbers at any address.
template <class T>
SEDPA_INLINE T load_scalar(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// The mask of the first `count` lanes; all of them from 16 on.
SEDPA_INLINE std::uint16_t first_lanes(std::int64_t count) {
  return static_cast<std::uint16_t>(count >= 16 ? 0xffffu : (1u << count) - 1u);
}

}  // namespace sedpa::cpu::SEDPA_ISA

#if SEDPA_ISA_LEVEL == 2
#include "sedpa/backend/cpu/simd_avx512.h"
#elif SEDPA_ISA_LEVEL == 1
#include "sedpa/backend/cpu/simd_avx2.h"
#else
#include "sedpa/backend/cpu/simd_baseline.h"
#endif

namespace sedpa::cpu::SEDPA_ISA {

/// Brings the cache line at `address` nearer; any address will do.
SEDPA_INLINE void prefetch(const void* address) { __builtin_prefetch(address); }

/// e^x to about 1 ulp. Below -87.33 (where e^x leaves the normal numbers) exactly 0, above 88.37
/// infinity; NaN stays NaN.
SEDPA_INLINE F32x16 exp(F32x16 x) {
  const F32x16 lowest = broadcast(-87.33654f);
  const F32x16 highest = broadcast(88.37626f);
  // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, the first short enough that n times it
  // is exact.
  const F32x16 clamped = min(highest, max(lowest, x));
  const F32x16 n = round(clamped * broadcast(1.44269504f));
  F32x16 r = fma(n, broadcast(-0.693359375f), clamped);
  r = fma(n, broadcast(2.12194440e-4f), r);
  // e^r = 1 + r + r^2 q(r): the minimax polynomial of Cephes' expf.
  F32x16 q = broadcast(1.9875691500e-4f);
  q = fma(q, r, broadcast(1.3981999507e-3f));
  q = fma(q, r, broadcast(8.3334519073e-3f));
  q = fma(q, r, broadcast(4.1665795894e-2f));
  q = fma(q, r, broadcast(1.6666665459e-1f));
  q = fma(q, r, broadcast(5.0000001201e-1f));
  const F32x16 power = scale_by_power_of_two(fma(q, r * r, r + broadcast(1.0f)), n);
  const F32x16 in_range = blend(less(x, lowest), zero(), power);
  const F32x16 with_top = blend(less(highest, x), broadcast(__builtin_inff()), in_range);
  return blend(unordered(x), x, with_top);
}

/// x / (1 + e^-x)
SEDPA_INLINE F32x16 silu(F32x16 x) { return x / (broadcast(1.0f) + exp(zero() - x)); }

}  // namespace sedpa::cpu::SEDPA_ISA
