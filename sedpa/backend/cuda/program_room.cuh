#pragma once
// The shared memory of a program's kernel (decode_program.h), its ring and its meetings.
#include <cstdint>

#include "sedpa/backend/cuda/attention_decode.cuh"
#include "sedpa/backend/cuda/decode_program.h"
#include "sedpa/backend/cuda/hopper.cuh"

namespace sedpa::cuda::program {

inline constexpr int kWarps = kProgramThreads / 32;     // that compute
inline constexpr int kThreads = kProgramThreads + 128;  // and a warpgroup: a warp asks for bytes
inline constexpr int kPhaseSlots = 8;                   // phases' descriptions at hand
inline constexpr int kAlignment = 1024;                 // of boxes, swizzled by 128 bytes
inline constexpr int kXFloats = 4096;                   // of x, that are handed out at a time

constexpr int padded(std::size_t bytes) { return static_cast<int>((bytes + 127) / 128 * 128); }

/// A CTA's piece of an attention.
struct AttentionShare {
  DecodeSplit::Piece piece;
  std::int32_t parts = 0;       // of the piece's units; 0: there is no piece for this CTA
  std::int32_t tile_bytes = 0;  // keys and values
  std::int32_t ahead = 0;       // tiles that may be on their way
};

/// Offsets in shared memory.
struct Offsets {
  int positions = 0;     // [stages, tile_keys] int32: of a tile of a window class
  int outputs = 0;       // [stages] int32: first output of a product's stage, ~ of it in the last
  int phases = 0;        // [kPhaseSlots]
  int pieces = 0;        // [kPhaseSlots] AttentionShare
  int step_outputs = 0;  // [kProgramPassSteps] int32: first output of each step
  int residuals = 0;     // [kProgramThreads] f32
  int work = 0;          // f32: x to be handed out, or states to be merged
  int rows = 0;          // DecodeRows, or f32 [kProgramPassSteps, kWarps]: sums of warps
  int barriers = 0;      // [stages] there, read; [kPhaseSlots] there, ready, read
  int small = 0;         // squares of each warp
  int bytes = 0;

  __host__ __device__ explicit Offsets(const ProgramParams& p) {
    positions = p.stages * p.stage_bytes;
    outputs = positions + padded(static_cast<std::size_t>(p.stages * p.tile_keys) * 4);
    phases = outputs + padded(static_cast<std::size_t>(p.stages) * 4);
    pieces = phases + kPhaseSlots * padded(sizeof(ProgramPhase));
    step_outputs = pieces + padded(kPhaseSlots * sizeof(AttentionShare));
    residuals = step_outputs + padded(kProgramPassSteps * 4);
    work = residuals + padded(kProgramThreads * 4);
    rows = work + padded(static_cast<std::size_t>(p.work_bytes));
    constexpr int kSumBytes = kProgramPassSteps * kWarps * 4;
    constexpr int kRowBytes = DecodeRows<128>::kBytes;
    barriers = rows + padded(kSumBytes > kRowBytes ? kSumBytes : kRowBytes);
    small = barriers + padded(static_cast<std::size_t>(2 * p.stages + 3 * kPhaseSlots) * 8);
    bytes = small + padded(kWarps * 4);
  }
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

struct Room {
  const ProgramParams& p;
  std::byte* at;
  Offsets offsets;

  __device__ Room(const ProgramParams& params, std::byte* shared)
      : p(params), at(shared), offsets(params) {}
  __device__ std::byte* stage(int i) const { return at + i * p.stage_bytes; }
  __device__ std::int32_t* positions(int i) const {
    return reinterpret_cast<std::int32_t*>(at + offsets.positions) + i * p.tile_keys;
  }
  __device__ const ProgramPhase& phase(int slot) const {
    return *reinterpret_cast<const ProgramPhase*>(at + offsets.phases +
                                                  slot * padded(sizeof(ProgramPhase)));
  }
  /// The first output of what a stage of a product holds; ~ of it in the CTA's last stage of the
  /// product. Past all outputs where the CTA has none: as many stages as a row takes, with nothing.
  __device__ std::int32_t& output(int i) const {
    return reinterpret_cast<std::int32_t*>(at + offsets.outputs)[i];
  }
  __device__ AttentionShare& share(int slot) const {
    return reinterpret_cast<AttentionShare*>(at + offsets.pieces)[slot];
  }
  __device__ std::int32_t* step_outputs() const {
    return reinterpret_cast<std::int32_t*>(at + offsets.step_outputs);
  }
  __device__ float* residuals() const { return reinterpret_cast<float*>(at + offsets.residuals); }
  __device__ float* work() const { return reinterpret_cast<float*>(at + offsets.work); }
  __device__ float* sums() const { return reinterpret_cast<float*>(at + offsets.rows); }
  __device__ float* squares() const { return reinterpret_cast<float*>(at + offsets.small); }
  __device__ std::uint32_t barrier(int i) const {
    return shared_address(at + offsets.barriers) + 8 * i;
  }
  __device__ std::uint32_t stage_there(int i) const { return barrier(i); }
  __device__ std::uint32_t stage_read(int i) const { return barrier(p.stages + i); }
  __device__ std::uint32_t phase_there(int i) const { return barrier(2 * p.stages + i); }
  __device__ std::uint32_t phase_ready(int i) const { return phase_there(kPhaseSlots + i); }
  __device__ std::uint32_t phase_read(int i) const { return phase_there(2 * kPhaseSlots + i); }

  __device__ void init_barriers() const {
    for (int i = 0; i < p.stages; ++i) {
      init_barrier(stage_there(i), 1);
      init_barrier(stage_read(i), kWarps);
    }
    for (int i = 0; i < kPhaseSlots; ++i) {
      init_barrier(phase_there(i), 1);
      init_barrier(phase_ready(i), 1);
      init_barrier(phase_read(i), 1);
    }
    publish_barriers();
  }
};

/// How a product's rows go through the ring. Gate and up rows go side by side: the first half of a
/// step's rows are of the gate, the second of up.
struct ProductSteps {
  int streams = 0;            // rows of a step
  int step_outputs_log2 = 0;  // outputs of a step
  int step_outputs = 0;
  int stage_outputs = 0;  // outputs of a stage
  int stages = 0;         // of all CTAs

  __device__ explicit ProductSteps(const ProductPhase& phase) {
    streams = kProgramThreads >> phase.row_threads_log2;
    step_outputs_log2 =
        kProgramThreadsLog2 - phase.row_threads_log2 - (phase.job.up_rows != nullptr ? 1 : 0);
    step_outputs = 1 << step_outputs_log2;
    stage_outputs = phase.stage_steps * step_outputs;
    stages = static_cast<int>((phase.job.outputs + stage_outputs - 1) / stage_outputs);
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

/// This thread's number, as if nobody knew it yet: what follows from it is formed anew in each
/// phase. Kept over all phases it would lie in local memory, as far away as x.
__device__ inline int own_thread() {
  auto thread = static_cast<int>(threadIdx.x);
  asm volatile("" : "+r"(thread));
  return thread;
}

/// A number that all lanes have, so that the compiler knows it: branches that depend on it need not
/// bring lanes together again.
__device__ inline int uniform(int number) { return __shfl_sync(~0u, number, 0); }
template <class T>
__device__ T* uniform(T* pointer) {
  return reinterpret_cast<T*>(__shfl_sync(~0u, reinterpret_cast<unsigned long long>(pointer), 0));
}

/// Meets the other threads that compute.
__device__ inline void join() { named_wait(kDecodeBarrier, kProgramThreads); }

/// Says that this CTA has come; `join` before, so that what it has written is there for who waits.
/// By one thread.
__device__ inline void come(std::int32_t* met) {
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(met) : "memory");
}

/// Until `wanted` CTAs have come: what they wrote before is there.
__device__ inline void await(const std::int32_t* met, std::int32_t wanted) {
  if (threadIdx.x == 0) {
    std::int32_t seen;
    do {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(met) : "memory");
    } while (seen < wanted);
  }
  join();
}

#endif

}  // namespace sedpa::cuda::program
