#pragma once
// The warp that asks for bytes: phase after phase, as fast as places of the ring become free.
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

/// A CTA's stages of a product (StageShares), the last of them marked.
__device__ inline Place stream_weights(const ProductPhase& phase, const Room& room, bool leads,
                                       Place at) {
  const GemvJob& job = phase.job;
  const int stage_outputs = uniform(phase.stage_outputs());
  const int stage_bytes = uniform(stage_outputs * static_cast<int>(phase.layout.bytes));
  const int end_stage = uniform(phase.shares.stages);
  const int end_bytes =  // of the last of all stages
      uniform((static_cast<int>(job.outputs) - (end_stage - 1) * stage_outputs) *
              static_cast<int>(phase.layout.bytes));
  const int part_bytes = uniform(phase.part_bytes);
  const std::byte* const rows = uniform(job.rows);
  const std::byte* const up_rows = uniform(job.up_rows);
  const int stages = room.p.stages;
  const std::uint64_t policy = read_once();
  const auto copy_stage = [&](int stage, bool last) {
    const std::int64_t offset = std::int64_t{stage} * stage_bytes;
    const int first = stage * stage_outputs;
    const int bytes = stage + 1 < end_stage ? stage_bytes : end_bytes;
    for (int done = 0; done < bytes; done += part_bytes) {
      const int part = min(part_bytes, bytes - done);
      wait_for_stage(room, at, room.p.ahead);
      if (leads) {
        const std::uint32_t there = room.stage_there(at.index);
        const std::uint32_t to = shared_address(room.stage(at.index));
        room.output(at.index) = last ? ~first : first;
        arrive_expecting(there, up_rows != nullptr ? 2 * part : part);
        copy_bulk(to, rows + offset + done, part, there, policy);
        if (up_rows != nullptr) copy_bulk(to + stage_bytes, up_rows + offset, part, there, policy);
      }
      at.next(stages);
    }
  };
  const int cta = static_cast<int>(blockIdx.x) - phase.first_cta;
  const int count = uniform(phase.shares.count(cta));
  if (count == 0) {  // nothing, in as many stages as a row takes
    for (int part = 0; part < phase.row_parts; ++part) {
      wait_for_stage(room, at, room.p.ahead);
      if (leads) {
        room.output(at.index) = ~static_cast<int>(job.outputs);
        arrive(room.stage_there(at.index));
      }
      at.next(stages);
    }
    return at;
  }
  // Numbers are drawn a few stages before they are needed, since it takes a while; not earlier,
  // for who is late by then shall have fewer.
  std::int32_t* const counter = phase.shares.some_are_drawn() ? phase.drawn : nullptr;
  constexpr int kDrawnAhead = 3;
  int drawn[kDrawnAhead];
  const auto draw = [&] {
#pragma unroll
    for (int i = 0; i + 1 < kDrawnAhead; ++i) drawn[i] = drawn[i + 1];
    drawn[kDrawnAhead - 1] =
        counter != nullptr && threadIdx.x % 32 == 0 ? atomicAdd(counter, 1) : end_stage;
  };
  const int given = uniform(phase.shares.given);
  int stage = uniform(phase.shares.begin(cta));
  for (int i = count; i < kDrawnAhead; ++i) draw();
  for (int left = count - 1; left > 0; --left, ++stage) {
    if (left < kDrawnAhead) draw();
    copy_stage(stage, false);
  }
  while (true) {
    draw();
    const int following = given + uniform(drawn[0]);
    const bool last = following >= end_stage;
    copy_stage(stage, last);
    if (last) return at;
    stage = following;
  }
}

/// last: the share before this one. Layers are often alike, and to cut one takes so long that the
/// ring would feel it.
__device__ inline AttentionShare share_of(const AttentionPhase& phase, const Room& room,
                                          const AttentionShare& last) {
  const ProgramParams& p = room.p;
  const AttentionParams& params = phase.params;
  AttentionShare share;
  share.of = DecodeTiles(params, phase.row_blocks, program_tile_keys(params.tile_dim), room.past());
  if (share.of == last.of) {
    share.piece = last.piece;
    share.parts = last.parts;
  } else {
    const DecodeSplit split = share.of.split(p.ctas);
    const auto cta = static_cast<int>(blockIdx.x);
    if (cta < split.count()) {
      share.piece = split.piece(cta);
      share.parts = split.parts[share.piece.head_class];
    }
  }
  if (share.parts == 0) return share;
  const ClassParams& of = params.classes[share.piece.head_class];
  share.tile_bytes = share.of.keys * (of.key_row_bytes + of.value_row_bytes);
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

/// What does not change from tile to tile is in shared memory: these threads have few registers.
__device__ inline Place stream_keys(const AttentionPhase& phase, const AttentionShare& share,
                                    const Room& room, bool leads, Place at) {
  const AttentionParams& p = phase.params;
  if (share.parts == 0) return at;
  const int keys = uniform(program_tile_keys(p.tile_dim));
  const int head_class = uniform(share.piece.head_class);
  const ClassParams& of = p.classes[head_class];
  const std::int32_t* const positions = uniform(of.full ? nullptr : p.state.positions[head_class]);
  const CUtensorMap* const maps = uniform(phase.maps + 2 * head_class);
  const bool blocks = uniform(p.dtype == KvDtype::q8) != 0;
  const int position_bytes = positions != nullptr ? 4 * keys : 0;
  const int tile_bytes = uniform(share.tile_bytes) + position_bytes;
  const int ahead = uniform(share.ahead);
  const int stages = room.p.stages;
  const int first_unit = uniform(share.piece.first_unit);
  const int end_unit = uniform(share.piece.first_unit + share.piece.units);
  const int first_tile = uniform(share.piece.first_tile);
  const int end_tile = uniform(share.piece.end_tile);
  const std::uint64_t policy = read_once();
  for (int unit = first_unit; unit < end_unit; ++unit) {
    const int head = uniform(DecodeUnit::head_of(unit, phase.row_blocks));
    for (int tile = first_tile; tile < end_tile; ++tile) {
      const int first = tile * keys;
      wait_for_stage(room, at, ahead);
      if (leads) {
        const std::uint32_t there = room.stage_there(at.index);
        const std::uint32_t to = shared_address(room.stage(at.index));
        if (blocks) {
          // Rows that nothing has been stored in are left out, but there is always one to wait for.
          const int count = max(1, min(keys, used_slots(of, room.past()) - first));
          const std::int64_t row = head * of.capacity + first;
          const RawRows key(of.keys, of.key_row_bytes, row, count);
          const RawRows value(of.values, of.value_row_bytes, row, count);
          arrive_expecting(there, key.bytes + value.bytes + position_bytes);
          copy_bulk(to, key.begin, key.bytes, there, policy);
          copy_bulk(to + kProgramTileBytes, value.begin, value.bytes, there, policy);
        } else {
          arrive_expecting(there, tile_bytes);
          copy_rows(to, maps, first, head, there, policy);
          copy_rows(to + kProgramTileBytes, maps + 1, first, head, there, policy);
        }
        // Step state is padded to whole tiles.
        if (positions != nullptr) {
          copy_bulk(shared_address(room.positions(at.index)), positions + first, 4 * keys, there);
        }
      }
      at.next(stages);
    }
  }
  return at;
}

/// One warp. Its lanes go side by side, and one, which leads, speaks for all: the compiler then
/// knows addresses that all lanes share, as copies want them.
__device__ inline void stream(const Room& room) {
  const ProgramParams& p = room.p;
  const bool leads = elected();
  const auto fetch = [&](int i, const Slot& slot) {
    const int to = slot.index(p.slots);
    wait_barrier(room.phase_read(to), slot.parity(p.slots) ^ 1);
    if (leads) {
      const std::uint32_t there = room.phase_there(to);
      arrive_expecting(there, sizeof(ProgramPhase));
      copy_bulk(shared_address(&room.phase(to)), p.phases + i, sizeof(ProgramPhase), there);
    }
  };
  Place at;
  Slot slot;
  fetch(0, slot);
  for (int i = 0; i < p.count; ++i, slot = slot.next(p.slots)) {
    if (i + 1 < p.count) fetch(i + 1, slot.next(p.slots));
    const int index = slot.index(p.slots);
    wait_barrier(room.phase_there(index), slot.parity(p.slots));
    const ProgramPhase& phase = room.phase(index);
    if (leads) {
      if (phase.attends()) {
        AttentionShare& last = room.last_share();
        last = share_of(phase.attention, room, last);
        room.share(index) = last;
      }
      arrive(room.phase_ready(index));
    }
    __syncwarp();
    at = phase.attends() ? stream_keys(phase.attention, room.share(index), room, leads, at)
                         : stream_weights(own_product(phase), room, leads, at);
    arrive_having_read(room.phase_read(index));
  }
}

#endif

}  // namespace sedpa::cuda::program
