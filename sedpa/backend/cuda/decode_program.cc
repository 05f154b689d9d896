#include "sedpa/backend/cuda/decode_program.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "sedpa/backend/cuda/tile_map.h"
#include "sedpa/core/checked.h"

namespace sedpa::cuda {
namespace {

constexpr std::size_t kMostPhases = 1024;  // of a pass
constexpr std::size_t kMapsAPhase = 2 * kHeadClasses;
constexpr std::int32_t kThreadsLog2 = 8;
static_assert(1 << kThreadsLog2 == kProgramThreads);
constexpr std::int32_t kSumBytes = 16384;
constexpr std::int32_t kStageAlignment = 1024;
/// A stage holds at least so much: small rows come many at a time.
constexpr std::int32_t kLeastStageBytes = 2 * kProgramTileBytes;
constexpr std::int32_t kLeastQuantizedStageBytes = 20480;
constexpr std::int32_t kMostStageBytes = 32768;
/// What a multiprocessor may have asked for and not got. The memory answers in about a microsecond:
/// less leaves it idle, more makes some multiprocessors wait for others, who are then late.
constexpr std::int32_t kInFlightBytes = 48 << 10;

constexpr int kMapsAt = 0;
constexpr std::size_t kPhasesAt = kMostPhases * kMapsAPhase * sizeof(CUtensorMap);
constexpr std::size_t kMetAt = kPhasesAt + kMostPhases * sizeof(ProgramPhase);
constexpr std::size_t kDrawnAt = kMetAt + kMostPhases * sizeof(std::int32_t);
constexpr std::size_t kBytes = kDrawnAt + kMostPhases * sizeof(std::int32_t);

std::int32_t steps_a_time(const ProductPhase& product) {
  return kProgramThreads >> product.row_threads_log2;
}
std::int64_t step_bytes(const ProductPhase& product) {
  return steps_a_time(product) * product.layout.bytes;
}
/// Bytes that a stage has to hold at least.
std::int64_t least_stage(const ProductPhase& product) {
  return product.row_parts > 1 ? product.part_bytes : step_bytes(product);
}

/// Whether boxes of stored rows are what tiles of the tensor cores' steps want.
bool fits_boxes(const AttentionParams& params) {
  constexpr std::int32_t kStep = 16;  // numbers
  return params.whole_pieces && program_tile_dim(params.tile_dim) > 0 &&
         std::all_of(
             std::begin(params.classes), std::end(params.classes), [](const ClassParams& of) {
               return of.heads == 0 || (of.key_dim % kStep == 0 && of.value_dim % kStep == 0);
             });
}

}  // namespace

DecodeProgram::DecodeProgram(const DeviceTraits& device, cudaStream_t stream)
    : device_(device), stream_(stream), runs_(prepare_program(device) && has_tile_maps()) {
  if (runs_) memory_ = DeviceMemory(kBytes);
}

bool DecodeProgram::room_for_one() const { return runs_ && phases_.size() < kMostPhases; }

bool DecodeProgram::add(Dtype dtype, const GemvJob& job) {
  if (!room_for_one() || dtype == Dtype::f32 || job.outputs <= 0) return false;
  ProgramPhase phase;
  ProductPhase& product = phase.product;
  product.job = job;
  product.layout = row_layout(dtype, job.cols);
  product.dtype = dtype;
  product.drawn = reinterpret_cast<std::int32_t*>(memory_.data() + kDrawnAt) + phases_.size();
  // Of 16-bit numbers half of what a thread can own, so that steps are small, up to all threads to
  // a row.
  const std::int64_t thread_cols =
      is_quantized(dtype) ? kProgramThreadCols : kProgramThreadCols / 2;
  const std::int32_t most_log2 = job.up_rows != nullptr ? kThreadsLog2 - 1 : kThreadsLog2;
  while (thread_cols << product.row_threads_log2 < job.cols &&
         product.row_threads_log2 < most_log2) {
    ++product.row_threads_log2;
  }
  const bool fits = (std::int64_t{kProgramThreadCols} << product.row_threads_log2) >= job.cols;
  const bool aligned = reinterpret_cast<std::uintptr_t>(job.x) % 16 == 0 && job.cols % 8 == 0;
  if (!fits || !aligned) return false;
  constexpr std::int32_t kPart = kProgramThreads * kProgramThreadCols / 2 * 2;  // bytes
  if (!is_quantized(dtype) && product.row_threads_log2 == kThreadsLog2 &&
      product.layout.bytes > kPart) {
    product.row_parts = 2;
    product.part_bytes = kPart;
  }
  if (least_stage(product) > kMostStageBytes) return false;
  phases_.push_back(phase);
  maps_.resize(phases_.size() * kMapsAPhase);
  return true;
}

bool DecodeProgram::add(const AttentionParams& params, const DecodeRoom& room) {
  if (!room_for_one() || !fits_boxes(params)) return false;
  ProgramPhase phase{.attends = true, .product = {}, .attention = {params, room, nullptr}};
  const int tile_dim = program_tile_dim(params.tile_dim);
  phase.attention.params.tile_dim = tile_dim;
  const std::size_t at = phases_.size() * kMapsAPhase;
  phase.attention.maps = reinterpret_cast<const CUtensorMap*>(memory_.data() + kMapsAt) + at;
  phases_.push_back(phase);
  maps_.resize(phases_.size() * kMapsAPhase);
  const int keys = program_tile_keys(tile_dim);
  for (int i = 0; i < kHeadClasses; ++i) {
    const ClassParams& of = params.classes[i];
    if (of.heads == 0) continue;
    const auto map_of = [&](const std::byte* rows, int dim) {
      return row_map(params.dtype, rows, dim, of.capacity, of.heads, of.capacity, keys);
    };
    maps_[at + 2 * i] = map_of(of.keys, of.key_dim);
    maps_[at + 2 * i + 1] = map_of(of.values, of.value_dim);
  }
  return true;
}

void DecodeProgram::begin() {
  if (!runs_) return;
  check(cudaMemsetAsync(memory_.data() + kMetAt, 0, kBytes - kMetAt, stream_));
}

void DecodeProgram::flush() {
  if (launched_ == phases_.size()) return;
  std::int32_t stage = kLeastStageBytes;
  ProgramParams params;
  params.work_bytes = kSumBytes;
  for (std::size_t i = launched_; i < phases_.size(); ++i) {
    const ProgramPhase& phase = phases_[i];
    if (phase.attends) {
      params.work_bytes = std::max(params.work_bytes, program_merge_bytes(phase.attention.params));
    } else {
      stage = std::max(stage, static_cast<std::int32_t>(least_stage(phase.product)));
      if (is_quantized(phase.product.dtype)) stage = std::max(stage, kLeastQuantizedStageBytes);
    }
  }
  params.stage_bytes = round_up(stage, kStageAlignment);
  for (std::size_t i = launched_; i < phases_.size(); ++i) {
    ProductPhase& product = phases_[i].product;
    if (phases_[i].attends || product.row_parts > 1) continue;
    product.stage_steps = static_cast<std::int32_t>(params.stage_bytes / step_bytes(product));
    product.part_bytes = params.stage_bytes;
  }
  while (true) {
    ++params.stages;
    if (program_shared_bytes(params) > device_.shared_bytes_a_block) break;
  }
  --params.stages;
  const std::int32_t in_flight =
      (kInFlightBytes + params.stage_bytes / 2) / params.stage_bytes;  // stages, rounded
  params.ahead = std::clamp(in_flight, 1, params.stages - 1);
  params.phases = reinterpret_cast<const ProgramPhase*>(memory_.data() + kPhasesAt) + launched_;
  params.count = static_cast<std::int32_t>(phases_.size() - launched_);
  params.met = reinterpret_cast<std::int32_t*>(memory_.data() + kMetAt) + launches_++;
  launch_program(device_, params, stream_);
  launched_ = phases_.size();
}

void DecodeProgram::upload() {
  const auto copy = [&](std::size_t at, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(memory_.data() + at, from, bytes, cudaMemcpyHostToDevice, stream_));
  };
  copy(kMapsAt, maps_.data(), maps_.size() * sizeof(CUtensorMap));
  copy(kPhasesAt, phases_.data(), phases_.size() * sizeof(ProgramPhase));
  check(cudaStreamSynchronize(stream_));
}

}  // namespace sedpa::cuda
