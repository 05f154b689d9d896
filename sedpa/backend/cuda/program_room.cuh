#pragma once
// The shared memory of a program's kernel (decode_program.h), its ring, and the numbers that go
// from phase to phase.
#include <cstdint>

#include "sedpa/backend/cuda/attention_decode.cuh"
#include "sedpa/backend/cuda/decode_program.h"
#include "sedpa/backend/cuda/hopper.cuh"

namespace sedpa::cuda::program {

inline constexpr int kWarps = kProgramThreads / 32;         // that compute
inline constexpr int kPhaseThreads = kProgramThreads + 32;  // and a warp that asks for bytes
inline constexpr int kThreads = kProgramThreads + 128;      // that warp's whole warpgroup, too
inline constexpr int kXFloats = 4096;                       // of x, that are handed out at a time
// Where weights are quantised each warp has bytes of its own: chunks of x, then sums of lanes.
inline constexpr int kWarpChunks = kXFloats / 32 / kWarps;
inline constexpr int kChunkBytes = 80;
inline constexpr int kWarpLaneSums = 32 * program_group_steps(true);
inline constexpr int kWarpBytes = kWarpChunks * kChunkBytes + kWarpLaneSums * 4;

constexpr int padded(std::size_t bytes) { return static_cast<int>((bytes + 127) / 128 * 128); }

/// A CTA's piece of an attention.
struct AttentionShare {
  DecodeTiles of;
  DecodeSplit::Piece piece;
  std::int32_t parts = 0;       // of the piece's units; 0: there is no piece for this CTA
  std::int32_t tile_bytes = 0;  // keys and values
  std::int32_t ahead = 0;       // tiles that may be on their way
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A place of the ring, and the parity of the barriers that its use there waits for.
struct Place {
  int index = 0;
  int parity = 0;
  __device__ void next(int count) {
    if (++index == count) {
      index = 0;
      parity ^= 1;
    }
  }
  /// The place `by` < count places before.
  [[nodiscard]] __device__ Place before(int by, int count) const {
    return by <= index ? Place{index - by, parity} : Place{index - by + count, parity ^ 1};
  }
};

/// The slot of a phase's description, and the parity of its barriers there, in one register: slots
/// of two rounds. count: of slots.
struct Slot {
  int turn = 0;
  [[nodiscard]] __device__ int index(int count) const { return turn < count ? turn : turn - count; }
  [[nodiscard]] __device__ int parity(int count) const { return turn < count ? 0 : 1; }
  [[nodiscard]] __device__ Slot next(int count) const {
    return {turn + 1 == 2 * count ? 0 : turn + 1};
  }
};

struct Room {
  const ProgramParams& p;
  std::byte* at;
  int phase_number;

  __device__ Room(const ProgramParams& params, std::byte* shared, int number)
      : p(params), at(shared), phase_number(number) {}
  __device__ std::byte* stage(int i) const { return at + i * p.stage_bytes; }
  __device__ std::int32_t* positions(int i) const {
    return reinterpret_cast<std::int32_t*>(at + p.offsets.positions +
                                           i * p.offsets.positions_stride);
  }
  __device__ const ProgramPhase& phase(int slot) const {
    return *reinterpret_cast<const ProgramPhase*>(at + p.offsets.phases +
                                                  slot * padded(sizeof(ProgramPhase)));
  }
  /// The first output of what a stage of a product holds; ~ of it in the CTA's last stage of the
  /// product. Past all outputs where the CTA has none: as many stages as a row takes, with nothing.
  __device__ std::int32_t& output(int i) const {
    return reinterpret_cast<std::int32_t*>(at + p.offsets.outputs)[i];
  }
  __device__ AttentionShare& share(int slot) const {
    return reinterpret_cast<AttentionShare*>(at + p.offsets.pieces)[slot];
  }
  /// The share formed last.
  __device__ AttentionShare& last_share() const { return share(p.slots); }
  __device__ std::int32_t* step_outputs() const {
    return reinterpret_cast<std::int32_t*>(at + p.offsets.step_outputs);
  }
  __device__ float* residuals() const { return reinterpret_cast<float*>(at + p.offsets.residuals); }
  __device__ std::byte* work() const { return at + p.offsets.work; }
  /// [steps of a group, 32]: sums of a warp's lanes, in its bytes of `work`.
  __device__ float* lane_sums(int warp) const {
    return reinterpret_cast<float*>(work() + kWarpBytes * warp + kWarpChunks * kChunkBytes);
  }
  __device__ std::byte* rows() const { return at + p.offsets.rows; }
  /// [steps of a pass, kWarps]: sums of warps.
  __device__ float* sums() const { return reinterpret_cast<float*>(rows()); }
  __device__ float* squares() const { return reinterpret_cast<float*>(at + p.offsets.small); }
  __device__ std::uint32_t& pass() const {
    return reinterpret_cast<std::uint32_t*>(at + p.offsets.small)[kWarps];
  }
  /// Tokens before this one.
  __device__ std::int32_t& past() const {
    return reinterpret_cast<std::int32_t*>(at + p.offsets.small)[kWarps + 1];
  }
  static constexpr int kBarrierBytes = 8;
  __device__ std::uint32_t barrier(int i) const {
    return shared_address(at + p.offsets.barriers) + kBarrierBytes * i;
  }
  // A stage's stand side by side, so that who has the one knows the other.
  __device__ std::uint32_t stage_there(int i) const { return barrier(2 * i); }
  __device__ std::uint32_t stage_read(int i) const { return barrier(2 * i + 1); }
  __device__ std::uint32_t phase_there(int i) const { return barrier(2 * p.stages + i); }
  __device__ std::uint32_t phase_ready(int i) const { return phase_there(p.slots + i); }
  __device__ std::uint32_t phase_read(int i) const { return phase_there(2 * p.slots + i); }

  __device__ void init() const {
    last_share() = AttentionShare();
    for (int i = 0; i < p.stages; ++i) {
      init_barrier(stage_there(i), 1);
      init_barrier(stage_read(i), kProgramThreads);
    }
    for (int i = 0; i < p.slots; ++i) {
      init_barrier(phase_there(i), 1);
      init_barrier(phase_ready(i), 1);
      init_barrier(phase_read(i), kPhaseThreads);
    }
    publish_barriers();
  }
};

__device__ inline const ProductPhase& own_product(const ProgramPhase& phase) {
  return phase.product_of(static_cast<int>(blockIdx.x));
}

/// Copies a number of this thread's own to shared memory, behind its back.
__device__ inline void copy_number(float* to, const float* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
/// Until all numbers that this thread has asked for are there.
__device__ inline void copied_numbers() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// A number that all lanes have, so that the compiler knows it: branches that depend on it need not
/// bring lanes together again.
__device__ inline int uniform(int number) { return __shfl_sync(~0u, number, 0); }
template <class T>
__device__ T* uniform(T* pointer) {
  return reinterpret_cast<T*>(__shfl_sync(~0u, reinterpret_cast<unsigned long long>(pointer), 0));
}

/// Meets the other threads that compute.
__device__ inline void join() { named_wait(kDecodeBarrier, kProgramThreads); }

/// Says that this CTA has come, by one thread. What it has sent is on its way, but need not be
/// there before this.
__device__ inline void come(std::int32_t* met) {
  asm volatile("red.relaxed.gpu.global.add.s32 [%0], 1;" ::"l"(met) : "memory");
}

/// Until it is worth looking for what the CTAs send in the phase before: a quarter of them may
/// still be missing, since looking takes as long as they are apart. More who look would be in their
/// way.
__device__ inline void await_phase(const Room& room) {
  if (threadIdx.x == 0) {
    const int wanted = room.phase_number * room.p.ctas - room.p.ctas / 4;
    std::int32_t seen;
    do {
      asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(room.p.met) : "memory");
    } while (seen < wanted);
  }
  join();
}

/// Numbers from the exchange (program_exchange.h): the lowest bit of each is that of the pass that
/// has sent it, and only then is it there. Where numbers are not sent all are there.
struct SentNumbers {
  std::uint32_t pass;
  std::uint32_t mask;  // of the bit

  __device__ SentNumbers(const Room& room, std::int32_t place)
      : pass(room.pass()), mask(place == ProgramExchange::kBefore ? 0 : 1) {}
  __device__ static float load(const float* from) {
    float number;
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(number) : "l"(from));
    return number;
  }
  __device__ static float4 load(const float4* from) {
    float4 v;
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(from));
    return v;
  }
  /// Not 0 in the lowest bit: it is not there yet. Others mean nothing.
  __device__ std::uint32_t missing(float number) const {
    return (__float_as_uint(number) ^ pass) & mask;
  }
  /// The same of four numbers before `mask`: of several the bits may be joined first.
  __device__ std::uint32_t differing(const float4& v) const {
    return (__float_as_uint(v.x) ^ pass) | (__float_as_uint(v.y) ^ pass) |
           (__float_as_uint(v.z) ^ pass) | (__float_as_uint(v.w) ^ pass);
  }
  /// What was sent, without the bit.
  __device__ float plain(float number) const {
    return __uint_as_float(__float_as_uint(number) & ~mask);
  }
  __device__ float4 plain(const float4& v) const {
    return make_float4(plain(v.x), plain(v.y), plain(v.z), plain(v.w));
  }
  /// A lane's numbers of the `dim` at `from`, every 32nd, once all of the warp's are there; zeros
  /// behind them.
  template <int kCount>
  __device__ void read(const float* from, int lane, int dim, float (&x)[kCount]) const {
    const float none = __uint_as_float(pass & mask);  // is there, and 0
    std::uint32_t absent;
    do {
      absent = 0;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int d = lane + 32 * i;
        x[i] = d < dim ? load(from + d) : none;
      }
#pragma unroll
      for (const float number : x) absent |= missing(number);
    } while (__any_sync(~0u, absent != 0));
#pragma unroll
    for (float& number : x) number = plain(number);
  }
  /// The number at `from`, which has been loaded once.
  __device__ float settle(const float* from, float number) const {
    while (missing(number) != 0) number = load(from);
    return plain(number);
  }
};

/// A number to be sent, rounded (half to even) to what its lowest bit leaves.
__device__ inline std::uint32_t sendable(float number, std::uint32_t pass) {
  std::uint32_t bits = __float_as_uint(number);
  if (number == number) bits += bits >> 1 & 1;
  return (bits & ~1u) | (pass & 1);
}
__device__ inline void send(float* to, float number, std::uint32_t pass) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(sendable(number, pass))
               : "memory");
}
/// Four, to a multiple of 16 bytes.
__device__ inline void send(float* to, const float4& v, std::uint32_t pass) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to),
               "r"(sendable(v.x, pass)), "r"(sendable(v.y, pass)), "r"(sendable(v.z, pass)),
               "r"(sendable(v.w, pass))
               : "memory");
}

#endif

}  // namespace sedpa::cuda::program
