#pragma once
// Attention of one token over stored rows of q8 (attention/kv_policy.h), which lie in the ring as
// in memory. Codes become the tensor cores' 16-bit numbers in registers, when a lane has read them.
//
// A lane reads four neighbours of a row at once. So it has other numbers than ldmatrix would have
// given it, and products are taken in another order: of 16 keys, column c of the scores' first 8 is
// key 2 c, and of the second 8 it is key 2 c + 1, which keeps the lanes in different banks; of 16
// numbers of a key, a lane has 4 that stand together, and takes the queries' in the same way; of 32
// numbers of a value, column c of the j-th 8 is number 4 c + j.
#include <cstdint>

#include "sedpa/backend/cuda/program_attend.cuh"

namespace sedpa::cuda::program {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Keys or values of one head in a stage. kWhole: rows of kDim numbers at multiples of 4 bytes;
/// otherwise of `dim` numbers at even addresses.
template <int kDim, bool kWhole>
struct Q8Rows {
  static constexpr int kWholeBytes = kDim / kBlockNumbers * 2 + kDim;
  int dim;
  int row_bytes;
  int codes;  // of a row, in bytes from its begin
  int shift;  // bytes of the stage before the first row: copies begin at multiples of 16

  __device__ Q8Rows(const std::byte* rows, int numbers, int bytes, std::int64_t first_row)
      : dim(kWhole ? kDim : numbers),
        row_bytes(kWhole ? kWholeBytes : bytes),
        codes(kWhole ? kWholeBytes - kDim : scale_bytes(numbers)),
        shift(static_cast<int>(reinterpret_cast<std::uintptr_t>(rows + first_row * bytes) % 16)) {}

  __device__ static std::uint32_t four_bytes(const std::byte* at) {
    if constexpr (kWhole) {
      return *reinterpret_cast<const std::uint32_t*>(at);
    } else {
      const auto* const halves = reinterpret_cast<const std::uint16_t*>(at);
      return __byte_perm(halves[0], halves[1], 0x5410);
    }
  }
  __device__ const std::byte* row(const std::byte* tile, int number) const {
    return tile + shift + number * row_bytes;
  }
  /// The scales of blocks `block` and `block` + 1, which is even. Where there is but one block
  /// more, the second half is something else.
  __device__ std::uint32_t scales(const std::byte* row, int block) const {
    return four_bytes(row + 2 * block);
  }
  __device__ std::uint32_t four_codes(const std::byte* row, int first) const {
    return four_bytes(row + codes + first);
  }
  [[nodiscard]] __device__ bool ends_before(int number) const { return !kWhole && number >= dim; }
};

__device__ inline __half2 as_half2(std::uint32_t bits) {
  return *reinterpret_cast<const __half2*>(&bits);
}

/// How attend takes tiles of q8.
template <int kTileDim, bool kWhole>
struct Q8Tiles {
  using T = __half;
  static constexpr int kDim = kTileDim;
  using Rows = Q8Rows<kDim, kWhole>;
  using Queries = std::uint32_t[kDim / 16][4];

  const ClassParams& of;
  int lane;
  Rows keys;
  Rows values;

  __device__ Q8Tiles(const ClassParams& in, int head)
      : of(in),
        lane(own_thread() % 32),
        keys(in.keys, in.key_dim, in.key_row_bytes, head * in.capacity),
        values(in.values, in.value_dim, in.value_row_bytes, head * in.capacity) {}

  __device__ void load(const DecodeRows<kDim>& rows, Queries& queries) const {
    const std::byte* const at = rows.queries + lane / 4 * DecodeRows<kDim>::kPitch + lane % 4 * 8;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      const uint2 low = *reinterpret_cast<const uint2*>(at + 32 * k);
      const uint2 high =
          *reinterpret_cast<const uint2*>(at + 8 * DecodeRows<kDim>::kPitch + 32 * k);
      queries[k][0] = low.x;
      queries[k][1] = high.x;
      queries[k][2] = low.y;
      queries[k][3] = high.y;
    }
  }

  __device__ __forceinline__ void step(const Queries& queries, const std::byte* stage, int first,
                                       int valid, const std::int32_t* positions,
                                       RowState<kDim>& state) const {
    if (valid <= 0) return;  // the whole warp
    float scores[2][4];
    try_keys(queries, stage, first, scores);
    const LaneValues mine = read_values(stage + kProgramTileBytes, first, valid);
    // This lane's columns are four neighbours.
    const int key = lane % 4 * 4;
    bool visible[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) visible[i] = key + i % 2 * 2 + i / 2 < valid;
    if (!of.full) {
#pragma unroll
      for (int i = 0; i < 4; ++i) visible[i] &= positions[key + i % 2 * 2 + i / 2] >= 0;
    }
    std::uint32_t weights[4];
    weigh<T, kDim>(scores, visible, state, weights);
    add_values(weights, mine, state);
  }

  /// Columns to where other tiles' states have them: a lane has numbers 8 c .. 8 c + 7 of each 32,
  /// c = lane % 4, and shall have 2 c and 2 c + 1 of each 8.
  __device__ void finish(RowState<kDim>& state) const {
    const int own = lane % 4;
#pragma unroll
    for (int b = 0; b < kDim / 32; ++b) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float pairs[4][2];
#pragma unroll
        for (int i = 0; i < 8; ++i) pairs[i / 2][i % 2] = state.out[4 * b + i % 4][2 * r + i / 4];
        turn(pairs, own);
#pragma unroll
        for (int i = 0; i < 8; ++i) state.out[4 * b + i / 2][2 * r + i % 2] = pairs[i / 2][i % 2];
      }
    }
  }

  __device__ void attend_to_own(const Queries& /*queries*/, const DecodeRows<kDim>& rows,
                                RowState<kDim>& state) const {
    Queries plain;
    rows.load(plain);
    cuda::attend_to_own<T, kDim>(plain, rows, state);
  }

 private:
  /// Pair i of lane c of four goes to place c of lane i.
  __device__ static void turn(float (&pairs)[4][2], int own) {
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2) {
      const bool upper = (own & bit) != 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if ((i & bit) != 0) continue;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& low = pairs[i][e];
          float& high = pairs[i | bit][e];
          const float other = __shfl_xor_sync(~0u, upper ? low : high, bit);
          if (upper) {
            low = other;
          } else {
            high = other;
          }
        }
      }
    }
  }

  __device__ __forceinline__ void try_keys(const Queries& queries, const std::byte* tile, int first,
                                           float (&scores)[2][4]) const {
    std::uint32_t scales[2][kDim / 64] = {};
    std::uint32_t codes[2][kDim / 16] = {};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const std::byte* const row = keys.row(tile, first + lane / 4 * 2 + n);
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
        if (keys.ends_before(16 * k)) continue;  // a predicate: loads do not wait for one another
        if (k % 4 == 0) scales[n][k / 4] = keys.scales(row, k / 2);
        codes[n][k] = keys.four_codes(row, 16 * k + lane % 4 * 4);
      }
    }
    float sums[2][2][4] = {};  // of even and odd steps
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      if (keys.ends_before(16 * k)) break;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const __half2 both = as_half2(scales[n][k / 4]);
        const __half2 scale = k % 4 < 2 ? __low2half2(both) : __high2half2(both);
        const std::uint32_t biased = biased_codes(codes[n][k]);
        multiply_add<T>(sums[k % 2][n], queries[k], q8_pair(biased, false, scale),
                        q8_pair(biased, true, scale));
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = sums[0][n][i] + sums[1][n][i];
    }
  }

  /// What a lane has of 16 values: of four neighbours, 4 numbers of each 32.
  struct LaneValues {
    std::uint32_t scales[4][kDim / 64] = {};
    std::uint32_t codes[4][kDim / 32] = {};
  };

  __device__ __forceinline__ LaneValues read_values(const std::byte* tile, int first,
                                                    int valid) const {
    LaneValues mine;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // What weighs nothing must still be a number: the last valid key's.
      const std::byte* const row = values.row(tile, first + min(lane % 4 * 4 + i, valid - 1));
#pragma unroll
      for (int b = 0; b < kDim / 32; ++b) {
        if (values.ends_before(32 * b)) continue;
        if (b % 2 == 0) mine.scales[i][b / 2] = values.scales(row, b);
        mine.codes[i][b] = values.four_codes(row, 32 * b + lane / 4 * 4);
      }
    }
    return mine;
  }

  __device__ __forceinline__ void add_values(const std::uint32_t (&weights)[4],
                                             const LaneValues& mine, RowState<kDim>& state) const {
    const auto& scales = mine.scales;
#pragma unroll
    for (int b = 0; b < kDim / 32; ++b) {
      if (values.ends_before(32 * b)) break;
      const unsigned own = b % 2 == 0 ? 0x5410 : 0x7632;
      const __half2 even = as_half2(__byte_perm(scales[0][b / 2], scales[2][b / 2], own));
      const __half2 odd = as_half2(__byte_perm(scales[1][b / 2], scales[3][b / 2], own));
      std::uint32_t codes[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) codes[i] = biased_codes(mine.codes[i][b]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned two = j < 2 ? 0x5140 : 0x7362;  // numbers of both keys, side by side
        multiply_add<T>(state.out[4 * b + j], weights,
                        q8_pair(__byte_perm(codes[0], codes[2], two), j % 2 == 1, even),
                        q8_pair(__byte_perm(codes[1], codes[3], two), j % 2 == 1, odd));
      }
    }
  }
};

#endif

}  // namespace sedpa::cuda::program
