#pragma once
// Attention of one token, by all threads that compute: tiles of keys and values from the ring, 16
// keys a warp.
#include <cstdint>
#include <type_traits>

#include "sedpa/backend/cuda/decode.cuh"
#include "sedpa/backend/cuda/program_room.cuh"
#include "sedpa/backend/cuda/tile_map.h"

namespace sedpa::cuda::program {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// ldmatrix addresses of a row of a box: lines of 64 columns, kLines a row, swizzled by 128 bytes.
template <int kLines>
struct SwizzledRows {
  std::uint32_t row_at = 0;  // of its first line
  std::uint32_t turn = 0;    // that line % 8
  std::uint32_t odd = 0;     // 0, 1: which 8 of 16 columns
  __device__ SwizzledRows(std::uint32_t tile, int /*dim*/, int row, int second)
      : row_at(tile + 128 * kLines * row), turn(kLines * row % 8), odd(second) {}
  __device__ std::uint32_t operator()(int columns) const {
    const std::uint32_t chunk = 2 * columns + odd;
    const std::uint32_t line = chunk / 8;
    return row_at + 128 * line + ((chunk % 8 ^ (turn + line)) << 4);
  }
};

/// The same for rows of any `dim` numbers that row_map takes.
struct ThinRows {
  std::uint32_t tile = 0;
  std::uint32_t offset = 0;  // of the row, before the swizzle
  std::uint32_t swizzle = 0;
  __device__ ThinRows(std::uint32_t at, int dim, int row, int second)
      : tile(at), offset(2 * dim * row + 16 * second), swizzle(row_swizzle(dim)) {}
  __device__ std::uint32_t operator()(int columns) const {
    const std::uint32_t place = offset + 32 * columns;
    return tile + (place ^ (place >> 3 & swizzle));
  }
};

/// Parts of units go to those who merge them as words of a number and a tag, which is the pass's
/// and the phase's own: who has a word has both. The bit of other numbers will not do, since a CTA
/// need not have a part in every pass. A tag comes again after 2^22 passes.
struct PartWords {
  std::uint64_t* begin;  // of CTA 0's
  int each;              // words of a CTA
  std::uint32_t tag;

  __device__ PartWords(const AttentionPhase& phase, const Room& room)
      : begin(phase.parts),
        each(phase.part_words),
        tag(room.pass() << kProgramMostPhasesLog2 |
            static_cast<std::uint32_t>(room.p.first_phase + room.phase_number)) {}
  __device__ std::uint64_t* of(int cta) const { return begin + cta * each; }
  /// Two words, side by side and together at a multiple of 16 bytes.
  __device__ void put(std::uint64_t* to, float first, float second) const {
    const auto word = [this](float number) {
      return static_cast<std::uint64_t>(tag) << 32 | __float_as_uint(number);
    };
    asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(word(first)),
                 "l"(word(second))
                 : "memory");
  }
  /// False: they are not both there yet.
  __device__ bool get(const std::uint64_t* from, float& first, float& second) const {
    std::uint64_t words[2];
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(words[0]), "=l"(words[1])
                 : "l"(from));
    const auto number = [](std::uint64_t word) {
      return __uint_as_float(static_cast<std::uint32_t>(word));
    };
    first = number(words[0]);
    second = number(words[1]);
    return static_cast<std::uint32_t>(words[0] >> 32) == tag &&
           static_cast<std::uint32_t>(words[1] >> 32) == tag;
  }
};

/// Where a unit's numbers go: to who reads the result, or to who merges.
template <int kDim>
struct ToPhases {
  const AttentionPhase& phase;
  const PartWords& words;
  int column;  // the unit's first of the result
  int rows;
  std::uint32_t pass;

  __device__ ToPhases(const AttentionPhase& in, const PartWords& part_words, const Room& room,
                      const DecodeUnit& unit)
      : phase(in),
        words(part_words),
        column(in.params.out_column(unit.kv_head, unit.first_row)),
        rows(unit.rows),
        pass(room.pass()) {}
  __device__ void result(int at, float number) const {
    send(phase.sent + column + at, number, pass);
    if (phase.params.out != nullptr) phase.params.out[column + at] = number;
  }
  __device__ void result(int at, const float2& numbers) const {
    result(at, numbers.x);
    result(at + 1, numbers.y);
  }
  /// at: of a quad.
  __device__ void result(int at, const float4& numbers) const {
    send(phase.sent + column + at, numbers, pass);
    if (phase.params.out != nullptr) {
      *reinterpret_cast<float4*>(phase.params.out + column + at) = numbers;
    }
  }
  __device__ void part_of(int row, int d, float max, float sum, const float2& numbers) const {
    std::uint64_t* const mine = words.of(static_cast<int>(blockIdx.x));
    words.put(mine + 2 * rows + row * kDim + d, numbers.x, numbers.y);
    if (d == 0) words.put(mine + 2 * row, max, sum);
  }
};

/// The parts of a unit, in the order of its keys, to the result, as they come: each CTA that has
/// one merges its share of the numbers. Four numbers at a time, by some threads side by side that
/// ask for a few parts each, all at once: for kAtOnce, and then for others.
template <int kDim, int kAtOnce>
__device__ inline void merge_share(const AttentionPhase& phase, const PartWords& words,
                                   const ToPhases<kDim>& to, const DecodeUnit& unit, int part,
                                   int parts) {
  constexpr int kRowQuads = kDim / 4;
  // As many lanes as parts, up to a warp, share four numbers.
  const int lanes_log2 = parts > 16 ? 5 : 32 - __clz(parts - 1);
  const int lanes = 1 << lanes_log2;
  const int thread = own_thread();
  const int lane = thread & (lanes - 1);
  const int rows = unit.rows;
  // Numbers are small enough for these to be the quotients.
  const float share_of_part = near_inverse(static_cast<float>(parts));
  const auto first_of = [&](int index) {
    return static_cast<int>((static_cast<float>(rows * kRowQuads * index) + 0.5f) * share_of_part);
  };
  const int end = first_of(part + 1);
  int quad = first_of(part) + (thread >> lanes_log2);
  const std::uint64_t* const from = words.of(static_cast<int>(blockIdx.x) - part);
  const int dim = phase.params.value_dim(unit.kv_head);
#pragma unroll 1
  for (; __any_sync(~0u, quad < end); quad += kProgramThreads >> lanes_log2) {
    const int row = quad / kRowQuads;
    const int d = quad % kRowQuads * 4;
    float max = kNoScore;
    float sum = 0;
    float result[4] = {};
#pragma unroll 1
    for (int begin = lane; begin < parts; begin += kAtOnce * lanes) {
      float part_max[kAtOnce];
      float part_sum[kAtOnce];
      float part_out[kAtOnce][4];
      bool all;
      do {
        all = true;
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          part_max[k] = kNoScore;
          part_sum[k] = 0;
#pragma unroll
          for (float& number : part_out[k]) number = 0;
          if (begin + k * lanes >= parts || quad >= end) continue;
          const std::uint64_t* const of = from + (begin + k * lanes) * words.each;
          all &= words.get(of + 2 * row, part_max[k], part_sum[k]);
#pragma unroll
          for (int i = 0; i < 4; i += 2) {
            all &= words.get(of + 2 * rows + 4 * quad + i, part_out[k][i], part_out[k][i + 1]);
          }
        }
      } while (!all);
      float high = max;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) high = fmaxf(high, part_max[k]);
      const float keep = power_of_two(max - high);
      max = high;
      sum *= keep;
#pragma unroll
      for (float& number : result) number *= keep;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const float weight = power_of_two(part_max[k] - max);
        sum += weight * part_sum[k];
#pragma unroll
        for (int i = 0; i < 4; ++i) result[i] += weight * part_out[k][i];
      }
    }
    __syncwarp();
    float high = max;
#pragma unroll 1
    for (int i = lanes / 2; i > 0; i /= 2) high = fmaxf(high, __shfl_xor_sync(~0u, high, i));
    const float weight = power_of_two(max - high);
    sum *= weight;
#pragma unroll
    for (float& number : result) number *= weight;
#pragma unroll 1
    for (int i = lanes / 2; i > 0; i /= 2) {
      sum += __shfl_xor_sync(~0u, sum, i);
#pragma unroll
      for (float& number : result) number += __shfl_xor_sync(~0u, number, i);
    }
    if (lane == 0 && quad < end && d < dim) {
      const float share = near_inverse(sum);
      to.result(row * dim + d, make_float4(result[0] * share, result[1] * share, result[2] * share,
                                           result[3] * share));
    }
  }
}

/// How tiles of 16-bit numbers are taken. kThin: rows of fewer numbers than kDim; what is missing
/// is neither copied nor multiplied.
template <class Number, int kTileDim, bool kThin>
struct PlainTiles {
  using T = Number;
  static constexpr int kDim = kTileDim;
  using Rows = std::conditional_t<kThin, ThinRows, SwizzledRows<kDim / 64>>;
  using Queries = std::uint32_t[kDim / 16][4];

  const ClassParams& of;
  int key_dim;
  int value_dim;

  __device__ PlainTiles(const ClassParams& in, int /*head*/)
      : of(in), key_dim(kThin ? in.key_dim : kDim), value_dim(kThin ? in.value_dim : kDim) {}
  __device__ void load(const DecodeRows<kDim>& rows, Queries& queries) const { rows.load(queries); }
  /// 16 keys of a stage from `first` on, `valid` of which are there. positions: of the 16.
  __device__ __forceinline__ void step(const Queries& queries, const std::byte* stage, int first,
                                       int valid, const std::int32_t* positions,
                                       RowState<kDim>& state) const {
    const int lane = own_thread() % 32;
    bool visible[4];
    see_columns(of, valid, positions, visible);
    const std::uint32_t keys = shared_address(stage);
    cuda::step<T, kDim>(queries,
                        Rows(keys, key_dim, first + lane % 8 + lane / 16 * 8, lane / 8 % 2),
                        Rows(keys + kProgramTileBytes, value_dim, first + lane % 16, lane / 16),
                        visible, state, key_dim, value_dim);
  }
  __device__ void finish(RowState<kDim>& /*state*/) const {}
  __device__ void attend_to_own(const Queries& queries, const DecodeRows<kDim>& rows,
                                RowState<kDim>& state) const {
    cuda::attend_to_own<T, kDim>(queries, rows, state);
  }
};

/// Where a head vector comes from, and its place in the exchange.
struct VectorSource {
  const float* from;
  std::int32_t place;

  __device__ VectorSource(const AttentionPhase& phase, const HeadVector& vector, RowKind kind)
      : from(phase.queries + vector.column), place(phase.queries_from) {
    if (kind == RowKind::key) {
      from = phase.keys + (vector.column - phase.params.key_column(0));
      place = phase.keys_from;
    } else if (kind == RowKind::value) {
      from = phase.values + (vector.column - phase.params.value_column(0));
      place = phase.values_from;
    }
  }
};

/// Whoever attends looks for its queries from the beginning, without await_phase: there are few of
/// them, so it is in nobody's way.
template <class Tiles>
__device__ __forceinline__ Place attend(const AttentionPhase& phase, const AttentionShare& share,
                                        const Room& room, Place at) {
  using T = typename Tiles::T;
  constexpr int kDim = Tiles::kDim;
  constexpr int kKeys = program_tile_keys(kDim);
  constexpr int kGroups = kKeys / 16;       // warps that share a tile, 16 keys each
  constexpr int kTeams = kWarps / kGroups;  // that take tiles in turn
  static_assert(kGroups * kTeams == kWarps);
  const AttentionParams& p = phase.params;
  const int thread = own_thread();
  const int warp = thread / 32;
  const int group = warp % kGroups;
  const int team = warp / kGroups;
  const std::int32_t past = room.past();
  DecodeRows<kDim> rows(room.rows());
  auto* const work = reinterpret_cast<float*>(room.work());
  const DecodeSplit::Piece piece = share.piece;
  const int parts = share.parts;
  const ClassParams& of = p.classes[piece.head_class];
  const std::int32_t used = used_slots(of, past);
  const bool has_own = piece.part + 1 == parts;
  DecodeUnit unit(p, phase.row_blocks, piece.head_class, piece.first_unit);
  if (parts == 0) return at;
  for (int u = 0; u < piece.units; ++u) {
    if (u > 0) {
      unit = DecodeUnit(p, phase.row_blocks, piece.head_class, piece.first_unit + u);
      join();  // rows have been asked for
    }
    prepare_unit<T, kDim>(p, unit, has_own, past, kWarps, rows, work,
                          [&](const HeadVector& vector, RowKind kind, float* to) {
                            const VectorSource source(phase, vector, kind);
                            prepare_row<kDim>(p, vector, 0, kDim, to, source.from,
                                              SentNumbers(room, source.place));
                          });
    std::uint32_t queries[kDim / 16][4];
    const Tiles tiles(of, unit.head);
    tiles.load(rows, queries);
    RowState<kDim> state;
    for (int tile = piece.first_tile; tile < piece.end_tile; ++tile) {
      wait_barrier(room.stage_there(at.index), at.parity);
      if (tile % kTeams == team) {
        const std::int32_t first = tile * kKeys + 16 * group;
        tiles.step(queries, room.stage(at.index), 16 * group, used - first,
                   room.positions(at.index) + 16 * group, state);
      }
      arrive_having_read(room.stage_read(at.index));
      at.next(room.p.stages);
    }
    tiles.finish(state);
    if (has_own && warp == 0) tiles.attend_to_own(queries, rows, state);
    state.close();
    const PartWords words(phase, room);
    const ToPhases<kDim> to(phase, words, room, unit);
    deliver<kDim>(p, unit, parts, state, kWarps, work, to);
    if (parts > 32) {
      merge_share<kDim, 3>(phase, words, to, unit, piece.part, parts);
    } else if (parts > 1) {
      merge_share<kDim, 1>(phase, words, to, unit, piece.part, parts);
    }
  }
  return at;
}

#endif

}  // namespace sedpa::cuda::program
