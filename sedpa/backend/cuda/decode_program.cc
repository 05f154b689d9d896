#include "sedpa/backend/cuda/decode_program.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "sedpa/backend/cuda/tile_map.h"

namespace sedpa::cuda {
namespace {

constexpr std::size_t kMostPhases = std::size_t{1} << kProgramMostPhasesLog2;
constexpr std::size_t kMapsAPhase = 2 * kHeadClasses;
/// What a multiprocessor may have asked for and not got. The memory answers in about a microsecond:
/// less leaves it idle, more makes some multiprocessors wait for others, who are then late.
constexpr std::int32_t kInFlightBytes = 44 << 10;

constexpr int kMapsAt = 0;
constexpr std::size_t kPhasesAt = kMostPhases * kMapsAPhase * sizeof(CUtensorMap);
constexpr std::size_t kMetAt = kPhasesAt + kMostPhases * sizeof(ProgramPhase);
constexpr std::size_t kDrawnAt = kMetAt + kMostPhases * sizeof(std::int32_t);
constexpr std::size_t kPassAt = kDrawnAt + kMostPhases * kProgramProducts * sizeof(std::int32_t);
constexpr std::size_t kBytes = kPassAt + sizeof(std::uint32_t);

/// Whether stored rows are what the kernel takes: boxes as tiles of the tensor cores' steps want
/// them, or codes of q8. Results are sent by quads.
bool takes_rows(const AttentionParams& params) {
  constexpr std::int32_t kStep = 16;  // numbers
  return reinterpret_cast<std::uintptr_t>(params.out) % 16 == 0 &&
         (params.whole_pieces || params.dtype == KvDtype::q8) &&
         program_tile_dim(params.tile_dim) > 0 &&
         std::all_of(
             std::begin(params.classes), std::end(params.classes), [](const ClassParams& of) {
               return of.heads == 0 || (of.key_dim % kStep == 0 && of.value_dim % kStep == 0);
             });
}

/// ProgramTiles' word for rows that cannot be taken as they lie in whole tiles.
bool is_thin(const ClassParams& of, KvDtype dtype, std::int32_t tile_dim) {
  const auto in_words = [](const std::byte* rows) {
    return reinterpret_cast<std::uintptr_t>(rows) % 4 == 0;
  };
  return of.key_dim != tile_dim || of.value_dim != tile_dim ||
         (dtype == KvDtype::q8 && !(in_words(of.keys) && in_words(of.values)));
}

}  // namespace

DecodeProgram::DecodeProgram(const DeviceTraits& device, cudaStream_t stream)
    : device_(device), stream_(stream), runs_(prepare_program(device) && has_tile_maps()) {
  if (!runs_) return;
  memory_ = DeviceMemory(kBytes);
  check(cudaMemsetAsync(memory_.data() + kPassAt, 0, sizeof(std::uint32_t), stream_));
}

bool DecodeProgram::room_for_one() const { return runs_ && phases_.size() < kMostPhases; }

bool DecodeProgram::find(const float* from, std::int64_t count, std::int32_t& place) const {
  if (from == nullptr) return true;
  const std::optional<std::int32_t> found = exchange_.find(from, count);
  if (found) place = *found;
  return found.has_value();
}

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
    const GemvJob& job = product.job;
    const bool found = find(job.x, job.cols, added.x_from) &&
                       find(job.gate, job.outputs, added.gate_from) &&
                       find(job.residual, job.outputs, added.residual_from);
    if (!found) return false;
  }
  for (ProductPhase& product : phase.all_products()) {
    product.out_to = exchange_.send(product.job.out, product.job.outputs);
  }
  share_ctas(phase.all_products(), device_.multiprocessors);
  phases_.push_back(phase);
  maps_.resize(phases_.size() * kMapsAPhase);
  return true;
}

bool DecodeProgram::add(const AttentionParams& params, const DecodeRoom& room) {
  if (!room_for_one() || !takes_rows(params)) return false;
  const int tile_dim = program_tile_dim(params.tile_dim);
  const std::size_t at = phases_.size() * kMapsAPhase;
  const auto* const maps = reinterpret_cast<const CUtensorMap*>(memory_.data() + kMapsAt);
  AttentionPhase phase{.params = params,
                       .row_blocks = static_cast<std::int16_t>(room.row_blocks),
                       .part_words = static_cast<std::int32_t>(room.part_floats),
                       .maps = maps + at};
  phase.params.tile_dim = tile_dim;
  const std::int64_t keys_at = params.key_column(0);
  const std::int64_t values_at = params.value_column(0);
  const std::int64_t qkv_end = params.value_column(params.kv_heads);
  const bool found = find(params.qkv, keys_at, phase.queries_from) &&
                     find(params.qkv + keys_at, values_at - keys_at, phase.keys_from) &&
                     find(params.qkv + values_at, qkv_end - values_at, phase.values_from);
  if (!found) return false;
  phase.out_to = exchange_.send(
      params.out, std::int64_t{2} * params.group * params.table.values[params.kv_heads]);
  for (int i = 0; i < kHeadClasses; ++i) {
    phase.tiles[i] =
        program_tiles(params.dtype, tile_dim, is_thin(params.classes[i], params.dtype, tile_dim));
  }
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
  launch_pass_start(reinterpret_cast<std::int32_t*>(memory_.data() + kMetAt),
                    static_cast<std::int32_t>((kPassAt - kMetAt) / sizeof(std::int32_t)),
                    reinterpret_cast<std::uint32_t*>(memory_.data() + kPassAt), stream_);
}

void DecodeProgram::flush() {
  if (launched_ == phases_.size()) return;
  ProgramParams params;
  const std::span<ProgramPhase> phases = std::span(phases_).subspan(launched_);
  for (ProgramPhase& phase : phases) {
    if (phase.attends()) {
      const AttentionParams& attention = phase.attention.params;
      params.work_bytes = std::max(params.work_bytes, program_merge_bytes(attention));
      params.past = attention.state.past;  // the same for all
      if (attention.has_windows()) {
        params.tile_keys = std::max(params.tile_keys, program_tile_keys(attention.tile_dim));
      }
    }
    for (const ProductPhase& product : phase.all_products()) {
      const bool quantized = is_quantized(product.dtype);
      params.work_bytes = std::max(params.work_bytes, program_work_bytes(quantized));
      params.pass_steps = std::max(params.pass_steps, program_pass_steps(quantized));
    }
  }
  params.stage_bytes = plan_stages(phases);
  lay_out_program(params, static_cast<std::int32_t>(device_.shared_bytes_a_block));
  params.ctas = device_.multiprocessors;
  const std::int32_t in_flight =
      (kInFlightBytes + params.stage_bytes / 2) / params.stage_bytes;  // stages, rounded
  params.ahead = std::clamp(in_flight, 1, params.stages - 1);
  params.phases = reinterpret_cast<const ProgramPhase*>(memory_.data() + kPhasesAt) + launched_;
  params.count = static_cast<std::int32_t>(phases.size());
  params.met = reinterpret_cast<std::int32_t*>(memory_.data() + kMetAt) + launches_++;
  params.pass = reinterpret_cast<const std::uint32_t*>(memory_.data() + kPassAt);
  params.first_phase = static_cast<std::int32_t>(launched_);
  // Who is not to write to memory what another phase writes over.
  for (ProgramPhase& phase : phases) {
    if (phase.attends() && !exchange_.lasts(phase.attention.out_to)) {
      phase.attention.params.out = nullptr;
    }
    for (ProductPhase& product : phase.all_products()) {
      if (!exchange_.lasts(product.out_to)) product.job.out = nullptr;
    }
  }
  exchange_.end_launch();
  launch_program(device_, params, stream_);
  launched_ = phases_.size();
}

void DecodeProgram::upload() {
  connect();
  const auto copy = [&](std::size_t at, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(memory_.data() + at, from, bytes, cudaMemcpyHostToDevice, stream_));
  };
  copy(kMapsAt, maps_.data(), maps_.size() * sizeof(CUtensorMap));
  copy(kPhasesAt, phases_.data(), phases_.size() * sizeof(ProgramPhase));
  check(cudaStreamSynchronize(stream_));
}

/// Places in the exchange become places in memory.
void DecodeProgram::connect() {
  std::int64_t part_words = 0;
  for (const ProgramPhase& phase : phases_) {
    if (phase.attends())
      part_words = std::max(part_words, std::int64_t{phase.attention.part_words});
  }
  const std::size_t number_bytes = static_cast<std::size_t>(exchange_.floats()) * sizeof(float);
  const std::size_t bytes =
      number_bytes +
      static_cast<std::size_t>(device_.multiprocessors * part_words) * sizeof(std::uint64_t);
  if (bytes == 0) return;
  exchange_memory_ = DeviceMemory(bytes);
  // No number is there yet for the first pass, which is number 1.
  check(cudaMemsetAsync(exchange_memory_.data(), 0, bytes, stream_));
  auto* const numbers = reinterpret_cast<float*>(exchange_memory_.data());
  const auto from = [&](std::int32_t place, const float* before) -> const float* {
    return place == ProgramExchange::kBefore ? before : numbers + place;
  };
  for (ProgramPhase& phase : phases_) {
    for (ProductPhase& product : phase.all_products()) {
      GemvJob& job = product.job;
      job.x = from(product.x_from, job.x);
      job.gate = from(product.gate_from, job.gate);
      job.residual = from(product.residual_from, job.residual);
      product.sent = numbers + product.out_to;
    }
    if (!phase.attends()) continue;
    AttentionPhase& attention = phase.attention;
    const AttentionParams& params = attention.params;
    attention.queries = from(attention.queries_from, params.qkv);
    attention.keys = from(attention.keys_from, params.qkv + params.key_column(0));
    attention.values = from(attention.values_from, params.qkv + params.value_column(0));
    attention.sent = numbers + attention.out_to;
    attention.parts = reinterpret_cast<std::uint64_t*>(exchange_memory_.data() + number_bytes);
  }
}

}  // namespace sedpa::cuda
