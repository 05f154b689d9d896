#pragma once
// A pass of one token as one kernel. Its products and attentions are phases of a program that all
// multiprocessors work through side by side; what a phase needs of the one before comes through an
// exchange (program_exchange.h). Products that do not need each other are one phase: each
// multiprocessor has a share of one of them. One warp of each does nothing but ask for the bytes
// that its multiprocessor will need, weights, keys and values of all phases one after the other,
// into one ring in shared memory. None of them change during the pass, so the stream does not stop
// between phases: while the others form sums, send them and wait for their input, the ring fills,
// and the memory rests only if that takes longer than the ring lasts (some 190 KB, 6 us).
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
#include "sedpa/backend/cuda/program_exchange.h"
#include "sedpa/backend/cuda/program_phases.h"

namespace sedpa::cuda {

/// Where things stand in shared memory: bytes.
struct ProgramOffsets {
  std::int32_t positions = 0;         // [stages, tile_keys] int32: of a tile of a window class
  std::int32_t positions_stride = 0;  // from a stage's to the next one's
  std::int32_t outputs = 0;  // [stages] int32: first output of a product's stage, ~ in the last
  std::int32_t phases = 0;   // ProgramPhase of each slot
  std::int32_t pieces = 0;   // AttentionShare of each slot
  std::int32_t step_outputs = 0;  // [steps of a pass] int32: first output of each step
  std::int32_t residuals = 0;     // [kProgramThreads] f32
  std::int32_t work = 0;          // x to be handed out, and sums of lanes; or states to be merged
  std::int32_t rows = 0;          // DecodeRows; or f32: sums of warps
  std::int32_t barriers = 0;      // of stages: there, read; of slots: there, ready, read
  std::int32_t small = 0;         // squares of each warp; the pass's number; tokens before it
  std::int32_t bytes = 0;
};

/// What the kernel is told.
struct ProgramParams {
  const ProgramPhase* phases = nullptr;  // [count], in device memory
  std::int32_t count = 0;
  std::int32_t* met = nullptr;          // times a CTA has ended a phase; zero at the start
  const std::uint32_t* pass = nullptr;  // its number
  const std::int32_t* past = nullptr;   // tokens before the pass; null: nothing attends
  std::int32_t first_phase = 0;         // of the pass
  std::int32_t stages = 0;
  std::int32_t ahead = 0;  // stages that may be on their way: more would only queue up
  std::int32_t stage_bytes = 0;
  std::int32_t slots = 0;       // phases' descriptions at hand
  std::int32_t work_bytes = 0;  // for x on its way, sums of lanes and merges
  std::int32_t pass_steps = 0;  // of a product, at most
  std::int32_t tile_keys = 0;   // of a window class, at most; 0: there is none
  std::int32_t ctas = 0;
  ProgramOffsets offsets;
};

/// Lays out `bytes` of shared memory for the stages' size, the work and the tiles that `params`
/// names: gives it as many stages as there can be, then as many slots, and the offsets.
void lay_out_program(ProgramParams& params, std::int32_t bytes);
/// Bytes for x on its way, and for sums of lanes.
[[nodiscard]] std::int32_t program_work_bytes(bool quantized);
/// Bytes for merges of a layer's attention.
[[nodiscard]] std::int32_t program_merge_bytes(const AttentionParams& params);
/// Whether the kernel is built for the device; lets it have shared memory. Once, on the device.
[[nodiscard]] bool prepare_program(const DeviceTraits& device);
/// Zeroes `words` of counters and turns to the next pass.
void launch_pass_start(std::int32_t* counters, std::int32_t words, std::uint32_t* pass,
                       cudaStream_t stream);
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
  /// Asks the stream for what every pass begins with: first in the graph.
  void begin();
  /// Takes memory for the exchange and copies the phases to the device, before the first replay.
  /// Not during a capture.
  void upload();

 private:
  [[nodiscard]] bool room_for_one() const;
  /// Where what is to be at `from` by now is read; false: in several places.
  [[nodiscard]] bool find(const float* from, std::int64_t count, std::int32_t& place) const;
  void connect();

  DeviceTraits device_;
  cudaStream_t stream_;
  bool runs_ = false;
  DeviceMemory memory_;  // [maps | phases | counters]
  ProgramExchange exchange_;
  DeviceMemory exchange_memory_;  // [numbers | parts]
  std::vector<ProgramPhase> phases_;
  std::vector<CUtensorMap> maps_;
  std::size_t launched_ = 0;  // phases
  std::size_t launches_ = 0;
};

}  // namespace sedpa::cuda
