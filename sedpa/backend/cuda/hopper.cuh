#pragma once
// Hopper's warpgroup products, bulk copies and barriers (PTX ISA, "Asynchronous warpgroup level
// matrix instructions", "cp.async.bulk.tensor", "mbarrier"). Compute capability 9.0a only.
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace sedpa::cuda {

// --- Barriers in shared memory ----------------------------------------------------------------

__device__ inline void init_barrier(std::uint32_t at, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}
/// What this thread has done to shared memory comes before bulk copies that are asked for when it
/// has said so: they are behind no thread's reads or writes but by a fence of its own (PTX ISA,
/// "Async proxy").
__device__ inline void fence_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/// Makes initialised barriers known to the copy engine.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  fence_copies();
}
__device__ inline void arrive(std::uint32_t at) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
/// By each thread that has read what a bulk copy will write over when the phase has ended.
__device__ inline void arrive_having_read(std::uint32_t at) {
  fence_copies();
  arrive(at);
}
__device__ inline void arrive_expecting(std::uint32_t at, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
               : "memory");
}
/// Whether the phase of this parity has ended.
__device__ inline bool has_ended(std::uint32_t at, int parity) {
  std::uint32_t ended;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.b32 %0, 1, 0, done;\n"
      "}\n"
      : "=r"(ended)
      : "r"(at), "r"(parity)
      : "memory");
  return ended != 0;
}
/// Until the phase of this parity has ended.
__device__ inline void wait_barrier(std::uint32_t at, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(at),
      "r"(parity)
      : "memory");
}

/// The same by a whole warp, whose lanes stay together.
__device__ inline void wait_barrier_together(std::uint32_t at, int parity) {
  std::uint32_t has_ended;
  do {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.b32 %0, 1, 0, done;\n"
        "}\n"
        : "=r"(has_ended)
        : "r"(at), "r"(parity)
        : "memory");
  } while (!__all_sync(~0u, has_ended != 0));
}

/// Whether this lane is the one of its warp that speaks for all.
__device__ inline bool elected() {
  std::uint32_t is;
  asm volatile(
      "{\n"
      ".reg .pred is;\n"
      "elect.sync _|is, 0xffffffff;\n"
      "selp.b32 %0, 1, 0, is;\n"
      "}\n"
      : "=r"(is));
  return is != 0;
}

// --- Bulk copies ------------------------------------------------------------------------------

/// A box of a 3-dimensional tensor to shared memory; its bytes count for the barrier.
__device__ inline void copy_box(std::uint32_t to, const CUtensorMap* map, int x, int y, int z,
                                std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(reinterpret_cast<std::uint64_t>(map)), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}

/// Tells L2 that bytes are read once: they go before all others.
__device__ inline std::uint64_t read_once() {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// A box of whole rows, from a map of rows in lines (tile_map.h), in the same way.
__device__ inline void copy_rows(std::uint32_t to, const CUtensorMap* map, int row, int head,
                                 std::uint32_t barrier, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(reinterpret_cast<std::uint64_t>(map)), "r"(0), "r"(row), "r"(head), "r"(barrier),
      "l"(policy)
      : "memory");
}

/// Contiguous bytes to shared memory, all multiples of 16; they count for the barrier.
__device__ inline void copy_bulk(std::uint32_t to, const void* from, int bytes,
                                 std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

/// The same, under a policy of L2.
__device__ inline void copy_bulk(std::uint32_t to, const void* from, int bytes,
                                 std::uint32_t barrier, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// --- Products ---------------------------------------------------------------------------------

/// A matrix in shared memory of 128-byte rows, swizzled by 128 bytes; both offsets in bytes.
/// Rows along the summed dimension's other side (K-major): `stride` from 8 rows to the next 8.
/// Rows along the summed dimension (MN-major): the same, and `leading` from 64 columns to the next.
__device__ inline std::uint64_t matrix_descriptor(std::uint32_t at, std::uint32_t leading,
                                                  std::uint32_t stride) {
  return static_cast<std::uint64_t>((at & 0x3ffff) >> 4) |
         static_cast<std::uint64_t>(leading >> 4) << 16 |
         static_cast<std::uint64_t>(stride >> 4) << 32 | std::uint64_t{1} << 62;
}

/// Registers that a product will read or add to are as the program last left them.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until all but the youngest `kPending` groups of products have been done.
template <int kPending>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from reading accumulators before the wait above this line, or writing them
/// after the product below it.
template <int kCount>
__device__ inline void settle(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// clang-format off
#define SEDPA_SUMS_32 \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define SEDPA_SUMS_OF_D_32 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), \
  "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), \
  "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
  "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
  "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define SEDPA_SUMS_64 \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, " \
  "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define SEDPA_SUMS_OF_D_64 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), \
  "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), \
  "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
  "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
  "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), \
  "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), \
  "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), \
  "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
  "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), \
  "+f"(d[63])
// clang-format on

/// d [64, 128] (+)= a [64, 16] b [128, 16]^T, both K-major in shared memory. `add` 0: d is set.
template <class T>
__device__ inline void multiply_shared(float (&d)[64], std::uint64_t a, std::uint64_t b, int add) {
#define SEDPA_PRODUCT(TYPE)                                                          \
  asm volatile(                                                                      \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"                               \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " " SEDPA_SUMS_64 \
      ", %64, %65, add, 1, 1, 0, 0;\n}\n"                                            \
      : SEDPA_SUMS_OF_D_64                                                           \
      : "l"(a), "l"(b), "r"(add))
  if constexpr (std::is_same_v<T, __half>)
    SEDPA_PRODUCT("f16");
  else
    SEDPA_PRODUCT("bf16");
#undef SEDPA_PRODUCT
}

/// d [64, 64 or 128] += a [64, 16] b [16, 64 or 128], a in registers, b MN-major in shared memory.
template <class T, int kSums>
__device__ inline void multiply_registers(float (&d)[kSums], const std::uint32_t (&a)[4],
                                          std::uint64_t b) {
  static_assert(kSums == 32 || kSums == 64);
#define SEDPA_PRODUCT(TYPE)                                                                     \
  if constexpr (kSums == 64)                                                                    \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " " SEDPA_SUMS_64 \
                 ", {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"                                   \
                 : SEDPA_SUMS_OF_D_64                                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                         \
  else                                                                                          \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " " SEDPA_SUMS_32  \
                 ", {%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"                                   \
                 : SEDPA_SUMS_OF_D_32                                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
  if constexpr (std::is_same_v<T, __half>) {
    SEDPA_PRODUCT("f16");
  } else {
    SEDPA_PRODUCT("bf16");
  }
#undef SEDPA_PRODUCT
}

#undef SEDPA_SUMS_32
#undef SEDPA_SUMS_64
#undef SEDPA_SUMS_OF_D_32
#undef SEDPA_SUMS_OF_D_64

}  // namespace sedpa::cuda
