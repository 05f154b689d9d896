// The kernel of a program (decode_program.h). Compute capability 9.0a.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "sedpa/backend/cuda/decode_program.h"
#include "sedpa/backend/cuda/launch.h"
#include "sedpa/backend/cuda/program_attend.cuh"
#include "sedpa/backend/cuda/program_attend_q8.cuh"
#include "sedpa/backend/cuda/program_multiply.cuh"
#include "sedpa/backend/cuda/program_room.cuh"
#include "sedpa/backend/cuda/program_stream.cuh"

namespace sedpa::cuda {
namespace {

using namespace program;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ Place perform(const ProductPhase& phase, const Room& room, Place at) {
  switch (phase.dtype) {
    case Dtype::f16:
      return multiply<Dtype::f16>(phase, room, at);
    case Dtype::bf16:
      return multiply<Dtype::bf16>(phase, room, at);
    case Dtype::q8_0:
      return multiply<Dtype::q8_0>(phase, room, at);
    case Dtype::q4_0:
      return multiply<Dtype::q4_0>(phase, room, at);
    case Dtype::q4_1:
      return multiply<Dtype::q4_1>(phase, room, at);
    case Dtype::q5_0:
      return multiply<Dtype::q5_0>(phase, room, at);
    case Dtype::q5_1:
      return multiply<Dtype::q5_1>(phase, room, at);
    case Dtype::q4_k:
      return multiply<Dtype::q4_k>(phase, room, at);
    case Dtype::q5_k:
      return multiply<Dtype::q5_k>(phase, room, at);
    case Dtype::q6_k:
      return multiply<Dtype::q6_k>(phase, room, at);
    case Dtype::iq4_nl:
      return multiply<Dtype::iq4_nl>(phase, room, at);
    case Dtype::f32:
      break;
  }
  return at;
}

template <class T, int kDim>
__device__ __forceinline__ Place perform(const AttentionPhase& phase, const AttentionShare& share,
                                         const Room& room, Place at) {
  const ClassParams& of = phase.params.classes[share.piece.head_class];
  return of.key_dim == kDim && of.value_dim == kDim
             ? attend<PlainTiles<T, kDim, false>>(phase, share, room, at)
             : attend<PlainTiles<T, kDim, true>>(phase, share, room, at);
}

template <int kDim>
__device__ __forceinline__ Place perform_q8(const AttentionPhase& phase,
                                            const AttentionShare& share, const Room& room,
                                            Place at) {
  const ClassParams& of = phase.params.classes[share.piece.head_class];
  const auto in_words = [](const std::byte* rows) {
    return reinterpret_cast<std::uintptr_t>(rows) % 4 == 0;
  };
  const bool whole =
      of.key_dim == kDim && of.value_dim == kDim && in_words(of.keys) && in_words(of.values);
  return whole ? attend<Q8Tiles<kDim, true>>(phase, share, room, at)
               : attend<Q8Tiles<kDim, false>>(phase, share, room, at);
}

template <class T>
__device__ __forceinline__ Place perform(const AttentionPhase& phase, const AttentionShare& share,
                                         const Room& room, Place at) {
  return phase.params.tile_dim == 64 ? perform<T, 64>(phase, share, room, at)
                                     : perform<T, 128>(phase, share, room, at);
}

__device__ __forceinline__ Place perform(const AttentionPhase& phase, const AttentionShare& share,
                                         const Room& room, Place at) {
  if (phase.params.dtype == KvDtype::q8) {
    return phase.params.tile_dim == 64 ? perform_q8<64>(phase, share, room, at)
                                       : perform_q8<128>(phase, share, room, at);
  }
  return phase.params.dtype == KvDtype::bf16 ? perform<__nv_bfloat16>(phase, share, room, at)
                                             : perform<__half>(phase, share, room, at);
}

#endif

constexpr int kStartThreads = 1024;

__global__ void __launch_bounds__(kStartThreads)
    pass_start_kernel(std::int32_t* counters, std::int32_t words, std::uint32_t* pass) {
  for (auto i = static_cast<std::int32_t>(threadIdx.x); i < words; i += kStartThreads) {
    counters[i] = 0;
  }
  if (threadIdx.x == 0) ++*pass;
}

__global__ void __launch_bounds__(kThreads, 1)
    program_kernel(const __grid_constant__ ProgramParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(kAlignment) std::byte dynamic[];
  if (threadIdx.x == 0) {
    const Room room(p, dynamic, 0);
    room.init();
    room.pass() = *p.pass;
  }
  __syncthreads();
  // Registers go to those who compute, a warpgroup at a time.
  if (threadIdx.x >= kProgramThreads) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x < kProgramThreads + 32) stream(Room(p, dynamic, 0));
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  Place at;
  Slot slot;
  for (int i = 0; i < p.count; ++i, slot = slot.next(p.slots)) {
    // No phase has so high a number, but the compiler does not know: places are formed anew in each
    // phase, as in `own_thread`.
    const Room room(p, dynamic + (i >> 30), i);
    const int index = slot.index(p.slots);
    const int parity = slot.parity(p.slots);
    wait_barrier(room.phase_there(index), parity);
    wait_barrier(room.phase_ready(index), parity);
    const ProgramPhase& phase = room.phase(index);
    at = phase.attends() ? perform(phase.attention, room.share(index), room, at)
                         : perform(own_product(phase), room, at);
    join();
    if (threadIdx.x == 0) {
      arrive(room.phase_read(index));
      come(p.met);
    }
  }
#else
  __trap();  // launched on nothing else: prepare_program
#endif
}

}  // namespace

ProgramOffsets program_offsets(const ProgramParams& p) {
  ProgramOffsets at;
  const std::int32_t end = p.stages * p.stage_bytes;
  // Positions follow a tile where its stage has room for them.
  constexpr std::int32_t kTile = 2 * kProgramTileBytes;
  const std::int32_t position_bytes = 4 * p.tile_keys;
  const bool follow = kTile + position_bytes <= p.stage_bytes;
  at.positions = follow ? kTile : end;
  at.positions_stride = follow ? p.stage_bytes : position_bytes;
  at.outputs = end + (follow ? 0 : padded(p.stages * position_bytes));
  at.phases = at.outputs + padded(p.stages * 4);
  at.pieces = at.phases + p.slots * padded(sizeof(ProgramPhase));
  at.work = at.pieces + padded((p.slots + 1) * sizeof(AttentionShare));
  at.rows = at.work + padded(p.work_bytes);
  at.step_outputs = at.rows + p.pass_steps * kWarps * 4;
  at.residuals = at.step_outputs + p.pass_steps * 4;
  constexpr int kRowBytes = DecodeRows<128>::kBytes;
  const std::int32_t sums_end = at.residuals + kProgramThreads * 4;
  at.barriers = at.rows + padded(std::max(sums_end - at.rows, kRowBytes));
  at.small = at.barriers + padded((2 * p.stages + 3 * p.slots) * 8);
  at.bytes = at.small + padded((kWarps + 1) * 4);
  return at;
}

std::int32_t program_work_bytes(bool quantized) {
  return quantized ? kWarps * kWarpBytes : kXFloats * 4;
}

std::int32_t program_merge_bytes(const AttentionParams& params) {
  const int rows = params.group < kDecodeRows ? params.group : kDecodeRows;
  const int states = kWarps * rows * (params.tile_dim + 2) * 4;
  const int vectors = kWarps * params.tile_dim * 4;
  return states > vectors ? states : vectors;
}

bool prepare_program(const DeviceTraits& device) {
  if (device.compute != 90) return false;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, program_kernel));
  if (attributes.binaryVersion != 90) return false;
  check(cudaFuncSetAttribute(program_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(device.shared_bytes_a_block)));
  return true;
}

void launch_pass_start(std::int32_t* counters, std::int32_t words, std::uint32_t* pass,
                       cudaStream_t stream) {
  launch({.grid = dim3(1), .block = dim3(kStartThreads), .stream = stream}, pass_start_kernel,
         counters, words, pass);
}

void launch_program(const DeviceTraits& device, const ProgramParams& params, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(device.multiprocessors));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<std::size_t>(params.offsets.bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, program_kernel, params));
}

}  // namespace sedpa::cuda
