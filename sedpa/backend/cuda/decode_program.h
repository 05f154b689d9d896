#pragma once
// A pass of one token as one kernel. Its products and attentions are phases of a program that all
// multiprocessors work through side by side; between phases they meet. Products that do not need
// each other are one phase: each multiprocessor has a share of one of them. One warp of each does
// nothing but ask for the bytes that its multiprocessor will need, weights, keys and values of all
// phases one after the other, into one ring in shared memory. None of them change during the pass,
// so the stream does not stop at a meeting: while the others form sums, meet and read their input,
// the ring fills, and the memory rests only if that takes longer than the ring lasts (some 190 KB,
// 6 us).
//
// Hopper only: decode_program.cu. What a program does not take is launched by itself, between
// programs.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sedpa/backend/cuda/device.h"
#include "sedpa/backend/cuda/program_phases.h"

namespace sedpa::cuda {

/// What the kernel is told.
struct ProgramParams {
  const ProgramPhase* phases = nullptr;  // [count], in device memory
  std::int32_t count = 0;
  std::int32_t* met = nullptr;  // CTAs that have come to meetings; zero at the start
  std::int32_t stages = 0;
  std::int32_t ahead = 0;  // stages that may be on their way: more would only queue up
  std::int32_t stage_bytes = 0;
  std::int32_t work_bytes = 0;  // for x on its way and merges
  std::int32_t tile_keys = 0;   // at most; 0: nothing attends
};

/// Bytes of shared memory that a launch takes.
[[nodiscard]] std::size_t program_shared_bytes(const ProgramParams& params);
/// Bytes for merges of a layer's attention.
[[nodiscard]] std::int32_t program_merge_bytes(const AttentionParams& params);
/// Whether the kernel is built for the device; lets it have shared memory. Once, on the device.
[[nodiscard]] bool prepare_program(const DeviceTraits& device);
/// One CTA a multiprocessor; the launch fails when they cannot all be there at once.
void launch_program(const DeviceTraits& device, const ProgramParams& params, cudaStream_t stream);

/// Gathers the phases of a pass while it is recorded, and launches what it has gathered.
class DecodeProgram {
 public:
  /// Takes device memory for phases. Not during a capture.
  DecodeProgram(const DeviceTraits& device, cudaStream_t stream);

  // Add a phase. False: it cannot be part of a program; whoever asked launches it, after `flush`.
  /// Up to kProgramProducts products, none of which reads or writes what another writes.
  [[nodiscard]] bool add(std::span<const RowProduct> products);
  [[nodiscard]] bool add(const AttentionParams& params, const DecodeRoom& room);
  /// Launches the phases gathered since the last flush as one kernel.
  void flush();
  /// Asks the stream to zero what counts meetings: first in the graph.
  void begin();
  /// Copies the phases to the device, before the first replay. Not during a capture.
  void upload();

 private:
  [[nodiscard]] bool room_for_one() const;

  DeviceTraits device_;
  cudaStream_t stream_;
  bool runs_ = false;
  DeviceMemory memory_;    // [maps | phases | counters]
  std::size_t units_ = 0;  // of the attentions
  std::vector<ProgramPhase> phases_;
  std::vector<CUtensorMap> maps_;
  std::size_t launched_ = 0;  // phases
  std::size_t launches_ = 0;
};

}  // namespace sedpa::cuda
