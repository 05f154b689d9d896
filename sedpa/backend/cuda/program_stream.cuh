#pragma once
// The thread that asks for bytes: phase after phase, as fast as places of the ring become free.
#include <cstdint>

#include "sedpa/backend/cuda/program_room.cuh"

namespace sedpa::cuda::program {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Until a stage is free and little enough is on its way: `ahead` stages.
__device__ inline void wait_for_stage(const Room& room, const Place& at, int ahead) {
  wait_barrier(room.stage_read(at.index), at.parity ^ 1);
  const Place older = at.before(ahead, room.p.stages);
  wait_barrier(room.stage_there(older.index), older.parity);
}
__device__ inline void wait_for_stage(const Room& room, const Place& at) {
  wait_for_stage(room, at, room.p.ahead);
}

/// A CTA's stages of a product (StageShare), the last of them marked.
__device__ inline Place stream_weights(const ProductPhase& phase, const Room& room, Place at) {
  const GemvJob& job = phase.job;
  const ProductSteps steps(phase);
  const int row_bytes = static_cast<int>(phase.layout.bytes);
  const auto copy_stage = [&](int stage, bool last) {
    const int first = stage * steps.stage_outputs;
    const int left = static_cast<int>(job.outputs) - first;
    const int bytes = min(steps.stage_outputs, left) * row_bytes;
    const std::int64_t offset = std::int64_t{first} * row_bytes;
    for (int done = 0; done < bytes; done += phase.part_bytes) {
      const int part = min(phase.part_bytes, bytes - done);
      const std::uint32_t to = shared_address(room.stage(at.index));
      const bool paired = job.up_rows != nullptr;
      wait_for_stage(room, at);
      room.output(at.index) = last ? ~first : first;
      const std::uint32_t there = room.stage_there(at.index);
      arrive_expecting(there, paired ? 2 * part : part);
      copy_bulk(to, job.rows + offset + done, part, there);
      if (paired) {
        copy_bulk(to + steps.stage_outputs * row_bytes, job.up_rows + offset, part, there);
      }
      at.next(room.p.stages);
    }
  };
  const StageShare share =
      StageShare::make(steps.stages, phase.ctas, static_cast<int>(blockIdx.x) - phase.first_cta);
  // Numbers are drawn before they are needed: it takes a while.
  int drawn[3] = {steps.stages, steps.stages, steps.stages};
  if (share.given < steps.stages) {
#pragma unroll
    for (int& number : drawn) number = atomicAdd(phase.drawn, 1);
  }
  if (share.begin == share.end) {
    wait_for_stage(room, at);
    room.output(at.index) = kNoOutput;
    arrive(room.stage_there(at.index));
    at.next(room.p.stages);
    return at;
  }
  int stage = share.begin;
  for (; stage + 1 < share.end; ++stage) copy_stage(stage, false);
  while (true) {
    const int following = share.given + drawn[0];
    const bool last = following >= steps.stages;
    copy_stage(stage, last);
    if (last) return at;
    stage = following;
    drawn[0] = drawn[1];
    drawn[1] = drawn[2];
    drawn[2] = atomicAdd(phase.drawn, 1);
  }
}

__device__ inline AttentionShare share_of(const AttentionPhase& phase, const ProgramParams& p) {
  const AttentionParams& params = phase.params;
  const int keys = program_tile_keys(params.tile_dim);
  const DecodeSplit split = decode_split(params, phase.room.row_blocks, static_cast<int>(gridDim.x),
                                         keys, __ldcg(params.state.past));
  AttentionShare share;
  if (static_cast<int>(blockIdx.x) >= split.count()) return share;
  share.piece = split.piece(static_cast<int>(blockIdx.x));
  share.parts = split.parts[share.piece.head_class];
  const ClassParams& of = params.classes[share.piece.head_class];
  share.tile_bytes = keys * (of.key_row_bytes + of.value_row_bytes);
  // Of smaller tiles more are on their way, so that as many bytes are.
  const int full_bytes = p.ahead * 2 * kProgramTileBytes;
  share.ahead = min((full_bytes + share.tile_bytes / 2) / share.tile_bytes, p.stages - 1);
  return share;
}

/// Stored rows of a head as they lie, in whole pieces of 16 bytes.
struct RawRows {
  const std::byte* begin = nullptr;
  int bytes = 0;
  __device__ RawRows(const std::byte* rows, int row_bytes, std::int64_t first, int count)
      : begin(rows + first * row_bytes) {
    const int before = static_cast<int>(reinterpret_cast<std::uintptr_t>(begin) % 16);
    begin -= before;
    bytes = (before + count * row_bytes + 15) / 16 * 16;
  }
};

/// What does not change from tile to tile is in shared memory: this thread has few registers.
__device__ inline Place stream_keys(const AttentionPhase& phase, const AttentionShare& share,
                                    const Room& room, Place at) {
  const AttentionParams& p = phase.params;
  const DecodeSplit::Piece& piece = share.piece;
  if (share.parts == 0) return at;
  const int keys = program_tile_keys(p.tile_dim);
  const std::int32_t* const positions =
      p.classes[piece.head_class].full ? nullptr : p.state.positions[piece.head_class];
  const CUtensorMap* const maps = phase.maps + 2 * piece.head_class;
  const std::int32_t past = p.dtype == KvDtype::q8 ? __ldcg(p.state.past) : 0;
  for (int unit = piece.first_unit; unit < piece.first_unit + piece.units; ++unit) {
    const int head = unit / phase.room.row_blocks;
    for (int tile = piece.first_tile; tile < piece.end_tile; ++tile) {
      const int first = tile * keys;
      wait_for_stage(room, at, share.ahead);
      const std::uint32_t there = room.stage_there(at.index);
      const std::uint32_t to = shared_address(room.stage(at.index));
      const int position_bytes = positions != nullptr ? 4 * keys : 0;
      if (p.dtype == KvDtype::q8) {
        // Rows that nothing has been stored in are left out, but there is always one to wait for.
        const ClassParams& of = p.classes[piece.head_class];
        const int count = max(1, min(keys, used_slots(of, past) - first));
        const std::int64_t row = head * of.capacity + first;
        const RawRows key(of.keys, of.key_row_bytes, row, count);
        const RawRows value(of.values, of.value_row_bytes, row, count);
        arrive_expecting(there, key.bytes + value.bytes + position_bytes);
        copy_bulk(to, key.begin, key.bytes, there);
        copy_bulk(to + kProgramTileBytes, value.begin, value.bytes, there);
      } else {
        arrive_expecting(there, share.tile_bytes + position_bytes);
        copy_rows(to, maps, first, head, there);
        copy_rows(to + kProgramTileBytes, maps + 1, first, head, there);
      }
      // Step state is padded to whole tiles.
      if (positions != nullptr) {
        copy_bulk(shared_address(room.positions(at.index)), positions + first, 4 * keys, there);
      }
      at.next(room.p.stages);
    }
  }
  return at;
}

/// One thread.
__device__ inline void stream(const Room& room) {
  const ProgramParams& p = room.p;
  const auto fetch = [&](int i) {
    const int slot = i % kPhaseSlots;
    const int parity = i / kPhaseSlots % 2;
    wait_barrier(room.phase_read(slot), parity ^ 1);
    arrive_expecting(room.phase_there(slot), sizeof(ProgramPhase));
    copy_bulk(shared_address(&room.phase(slot)), p.phases + i, sizeof(ProgramPhase),
              room.phase_there(slot));
  };
  Place at;
  fetch(0);
  for (int i = 0; i < p.count; ++i) {
    if (i + 1 < p.count) fetch(i + 1);
    const int slot = i % kPhaseSlots;
    wait_barrier(room.phase_there(slot), i / kPhaseSlots % 2);
    const ProgramPhase& phase = room.phase(slot);
    if (phase.attends()) room.share(slot) = share_of(phase.attention, p);
    arrive(room.phase_ready(slot));
    at = phase.attends() ? stream_keys(phase.attention, room.share(slot), room, at)
                         : stream_weights(own_product(phase), room, at);
  }
}

#endif

}  // namespace sedpa::cuda::program
