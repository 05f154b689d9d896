#include "sedpa/backend/cuda/decode_program.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "sedpa/backend/cuda/tile_map.h"
#include "sedpa/core/checked.h"

namespace sedpa::cuda {
namespace {

constexpr std::size_t kMostPhases = 1024;  // of a pass
constexpr std::size_t kMapsAPhase = 2 * kHeadClasses;
constexpr std::size_t kMostUnits = 16384;  // of a pass's attentions
constexpr std::int32_t kWorkBytes = 16384;
constexpr std::int32_t kStageAlignment = 1024;
/// A stage holds at least so much: small rows come many at a time.
constexpr std::int32_t kLeastStageBytes = 2 * kProgramTileBytes;
constexpr std::int32_t kLeastQuantizedStageBytes = 20480;
/// What a multiprocessor may have asked for and not got. The memory answers in about a microsecond:
/// less leaves it idle, more makes some multiprocessors wait for others, who are then late.
constexpr std::int32_t kInFlightBytes = 48 << 10;

constexpr int kMapsAt = 0;
constexpr std::size_t kPhasesAt = kMostPhases * kMapsAPhase * sizeof(CUtensorMap);
constexpr std::size_t kMetAt = kPhasesAt + kMostPhases * sizeof(ProgramPhase);
constexpr std::size_t kDrawnAt = kMetAt + kMostPhases * sizeof(std::int32_t);
constexpr std::size_t kArrivedAt = kDrawnAt + kMostPhases * kProgramProducts * sizeof(std::int32_t);
constexpr std::size_t kBytes = kArrivedAt + kMostUnits * sizeof(std::int32_t);

/// Whether stored rows are what the kernel takes: boxes as tiles of the tensor cores' steps want
/// them, or codes of q8.
bool takes_rows(const AttentionParams& params) {
  constexpr std::int32_t kStep = 16;  // numbers
  return (params.whole_pieces || params.dtype == KvDtype::q8) &&
         program_tile_dim(params.tile_dim) > 0 &&
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

bool DecodeProgram::add(std::span<const RowProduct> products) {
  if (!room_for_one() || products.empty() || products.size() > kProgramProducts) return false;
  ProgramPhase phase;
  auto* const drawn = reinterpret_cast<std::int32_t*>(memory_.data() + kDrawnAt);
  for (const RowProduct& product : products) {
    const std::optional<ProductPhase> planned = plan_product(product);
    if (!planned) return false;
    ProductPhase& added = phase.product[phase.products++];
    added = *planned;
    added.drawn = drawn + phases_.size() * kProgramProducts + phase.products - 1;
  }
  share_ctas(phase.all_products(), device_.multiprocessors);
  phases_.push_back(phase);
  maps_.resize(phases_.size() * kMapsAPhase);
  return true;
}

bool DecodeProgram::add(const AttentionParams& params, const DecodeRoom& room) {
  if (!room_for_one() || !takes_rows(params)) return false;
  const std::int32_t heads = params.classes[0].heads + params.classes[1].heads;
  const auto units = static_cast<std::size_t>(heads * room.row_blocks);
  if (units_ + units > kMostUnits) return false;
  auto* const arrived = reinterpret_cast<std::int32_t*>(memory_.data() + kArrivedAt) + units_;
  units_ += units;
  const int tile_dim = program_tile_dim(params.tile_dim);
  const std::size_t at = phases_.size() * kMapsAPhase;
  const auto* const maps = reinterpret_cast<const CUtensorMap*>(memory_.data() + kMapsAt);
  AttentionPhase phase{params, room, maps + at, arrived};
  phase.params.tile_dim = tile_dim;
  phases_.emplace_back(phase);
  maps_.resize(phases_.size() * kMapsAPhase);
  if (params.dtype == KvDtype::q8) return true;  // its rows are copied as they lie
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
  params.work_bytes = kWorkBytes;
  const std::span<ProgramPhase> phases = std::span(phases_).subspan(launched_);
  for (ProgramPhase& phase : phases) {
    if (phase.attends()) {
      const AttentionParams& attention = phase.attention.params;
      params.work_bytes = std::max(params.work_bytes, program_merge_bytes(attention));
      params.tile_keys = std::max(params.tile_keys, program_tile_keys(attention.tile_dim));
    }
    for (const ProductPhase& product : phase.all_products()) {
      stage = std::max(stage, static_cast<std::int32_t>(product.least_stage()));
      if (is_quantized(product.dtype)) stage = std::max(stage, kLeastQuantizedStageBytes);
    }
  }
  params.stage_bytes = round_up(stage, kStageAlignment);
  for (ProgramPhase& phase : phases) {
    for (ProductPhase& product : phase.all_products()) {
      if (product.row_parts > 1) continue;
      const std::int64_t fitting = params.stage_bytes / product.step_bytes();
      product.stage_steps = std::min(static_cast<std::int32_t>(fitting), kProgramPassSteps);
      product.part_bytes = params.stage_bytes;
    }
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
  params.count = static_cast<std::int32_t>(phases.size());
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
