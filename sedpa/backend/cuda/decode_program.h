#pragma once
// A pass of one token as one kernel. Its products and attentions are phases of a program that all
// multiprocessors work through side by side; between phases they meet. One warp of each does
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
#include <vector>

#include "sedpa/backend/cuda/attention_params.h"
#include "sedpa/backend/cuda/device.h"
#include "sedpa/backend/cuda/gemv.h"
#include "sedpa/backend/cuda/weight_format.h"

namespace sedpa::cuda {

inline constexpr int kProgramThreads = 256;        // that compute; a warp more asks for bytes
inline constexpr int kProgramThreadCols = 64;      // of x, that a thread owns at most
inline constexpr int kProgramTileBytes = 1 << 13;  // keys of a tile; values take as much

/// Numbers of a row of a program's tiles, for those of AttentionParams; 0: it has none so wide.
constexpr int program_tile_dim(int tile_dim) {
  return tile_dim <= 64 ? 64 : tile_dim <= 128 ? 128 : 0;
}
/// Keys of a tile.
constexpr int program_tile_keys(int tile_dim) { return kProgramTileBytes / (2 * tile_dim); }

/// A product of one row. L threads share a row of the matrix; threads / L rows side by side are a
/// step; a stage of the ring holds some steps, or a part of a row.
struct ProductPhase {
  GemvJob job;
  RowLayout layout;
  Dtype dtype = Dtype::f32;
  std::int32_t row_threads_log2 = 5;  // L
  std::int32_t stage_steps = 1;
  std::int32_t row_parts = 1;   // 2: long rows of 16-bit numbers, half of the threads' pieces each
  std::int32_t part_bytes = 0;  // of the first part; else of all rows of a stage
  std::int32_t* drawn = nullptr;  // stages that have gone to who came first; zero at the start
};

/// A layer's attention, norms, RoPE and commit.
struct AttentionPhase {
  AttentionParams params;
  DecodeRoom room;
  const CUtensorMap* maps = nullptr;  // in device memory: keys, values of each class
};

struct alignas(16) ProgramPhase {
  bool attends = false;
  ProductPhase product;  // when it does not
  AttentionPhase attention;
};

/// What the kernel is told.
struct ProgramParams {
  const ProgramPhase* phases = nullptr;  // [count], in device memory
  std::int32_t count = 0;
  std::int32_t* met = nullptr;  // CTAs that have come to meetings; zero at the start
  std::int32_t stages = 0;
  std::int32_t ahead = 0;  // stages that may be on their way: more would only queue up
  std::int32_t stage_bytes = 0;
  std::int32_t work_bytes = 0;  // for sums of warps and merges
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
  [[nodiscard]] bool add(Dtype dtype, const GemvJob& job);
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
  DeviceMemory memory_;  // [maps | phases | counters]
  std::vector<ProgramPhase> phases_;
  std::vector<CUtensorMap> maps_;
  std::size_t launched_ = 0;  // phases
  std::size_t launches_ = 0;
};

}  // namespace sedpa::cuda
