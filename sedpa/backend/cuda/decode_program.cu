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

__device__ __forceinline__ Place perform(const AttentionPhase& phase, const AttentionShare& share,
                                         const Room& room, Place at) {
  switch (phase.tiles[share.piece.head_class]) {
    case ProgramTiles::f16_128:
      return attend<PlainTiles<__half, 128, false>>(phase, share, room, at);
    case ProgramTiles::f16_64:
      return attend<PlainTiles<__half, 64, false>>(phase, share, room, at);
    case ProgramTiles::f16_128_thin:
      return attend<PlainTiles<__half, 128, true>>(phase, share, room, at);
    case ProgramTiles::f16_64_thin:
      return attend<PlainTiles<__half, 64, true>>(phase, share, room, at);
    case ProgramTiles::bf16_128:
      return attend<PlainTiles<__nv_bfloat16, 128, false>>(phase, share, room, at);
    case ProgramTiles::bf16_64:
      return attend<PlainTiles<__nv_bfloat16, 64, false>>(phase, share, room, at);
    case ProgramTiles::bf16_128_thin:
      return attend<PlainTiles<__nv_bfloat16, 128, true>>(phase, share, room, at);
    case ProgramTiles::bf16_64_thin:
      return attend<PlainTiles<__nv_bfloat16, 64, true>>(phase, share, room, at);
    case ProgramTiles::q8_128:
      return attend<Q8Tiles<128, true>>(phase, share, room, at);
    case ProgramTiles::q8_64:
      return attend<Q8Tiles<64, true>>(phase, share, room, at);
    case ProgramTiles::q8_128_thin:
      return attend<Q8Tiles<128, false>>(phase, share, room, at);
    case ProgramTiles::q8_64_thin:
      return attend<Q8Tiles<64, false>>(phase, share, room, at);
  }
  return at;
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
  extern __shared__ __align__(kProgramAlignment) std::byte dynamic[];
  if (threadIdx.x == 0) {
    const Room room(p, dynamic, 0);
    room.init();
    room.pass() = *p.pass;
    room.past() = p.past == nullptr ? 0 : *p.past;
  }
  __syncthreads();
  // Registers go to those who compute, a warpgroup at a time.
  if (threadIdx.x >= kProgramThreads) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x < kPhaseThreads) stream(Room(p, dynamic, 0));
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
    arrive_having_read(room.phase_read(index));
    join();
    if (threadIdx.x == 0) come(p.met);
  }
#else
  __trap();  // launched on nothing else: prepare_program
#endif
}

/// Phases' descriptions at hand. The ring may hold the last stages of one phase, two short ones and
/// the first stages of the fourth, and the next one's is asked for early; of factors more are
/// short.
constexpr std::int32_t kLeastSlots = 5;
constexpr std::int32_t kMostSlots = 8;

ProgramOffsets offsets_of(const ProgramParams& p) {
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
  at.bytes = at.small + padded((kWarps + 2) * 4);
  return at;
}

}  // namespace

void lay_out_program(ProgramParams& params, std::int32_t bytes) {
  params.stages = 1;
  params.slots = kLeastSlots;
  const auto grow = [&](std::int32_t& number) {
    ++number;
    const bool fits = offsets_of(params).bytes <= bytes;
    if (!fits) --number;
    return fits;
  };
  while (grow(params.stages)) {
  }
  while (params.slots < kMostSlots && grow(params.slots)) {
  }
  params.offsets = offsets_of(params);
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
