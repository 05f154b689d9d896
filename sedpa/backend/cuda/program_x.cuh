#pragma once
// x of a product, from the exchange to those who multiply by it: f32, or fixed-point numbers where
// weights are quantised (decode.cuh).
#include <cstdint>
#include <type_traits>

#include "sedpa/backend/cuda/program_room.cuh"
#include "sedpa/backend/cuda/row_product.cuh"

namespace sedpa::cuda::program {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// What a thread keeps of x: its pieces, member, member + L, ... of a row.
template <Dtype kDtype>
struct OwnX {
  static constexpr bool kQuantized = is_quantized(kDtype);
  static constexpr int kPieceCols = kQuantized ? 32 : 8;
  static constexpr int kPieces = kProgramThreadCols / kPieceCols;
  using Piece = std::conditional_t<kQuantized, FixedX, float[kPieceCols]>;
  Piece pieces[kPieces];

  __device__ void clear() {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      if constexpr (kQuantized) {
        cuda::clear(pieces[p]);
      } else {
        set(p, [](int) { return make_float4(0, 0, 0, 0); });
      }
    }
  }
  /// quad(i): columns 4 i .. 4 i + 3 of the piece, plain.
  template <class Quad>
  __device__ void set(int piece, const Quad& quad) {
#pragma unroll
    for (int i = 0; i < kPieceCols / 4; ++i) {
      const float4 v = quad(i);
      pieces[piece][4 * i] = v.x, pieces[piece][4 * i + 1] = v.y;
      pieces[piece][4 * i + 2] = v.z, pieces[piece][4 * i + 3] = v.w;
    }
  }
  using Stored = std::conditional_t<kQuantized, Chunk, uint4>;
  /// Piece `index` of a row in shared memory.
  __device__ static Stored load(const std::byte* row, const RowLayout& layout, int index) {
    const uint4 codes = *reinterpret_cast<const uint4*>(row + 16 * index);
    if constexpr (kQuantized) {
      constexpr ChunkBytes kBytes = chunk_bytes(kDtype);
      const auto word = [&](std::int64_t plane, int at) {
        return *reinterpret_cast<const std::uint32_t*>(row + static_cast<int>(plane) + at);
      };
      const auto half_word = [&](std::int64_t plane, int at) -> std::uint32_t {
        return *reinterpret_cast<const std::uint16_t*>(row + static_cast<int>(plane) + at);
      };
      Chunk chunk;
      chunk.codes = codes;
      if constexpr (kBytes.codes == 32) {
        chunk.more_codes =
            *reinterpret_cast<const uint4*>(row + static_cast<int>(layout.high / 2) + 16 * index);
      }
      if constexpr (kBytes.high == 4) chunk.high.x = word(layout.high, 4 * index);
      if constexpr (kBytes.high == 8) {
        chunk.high.x = word(layout.high, 8 * index);
        chunk.high.y = word(layout.high, 8 * index + 4);
      }
      chunk.scales =
          kBytes.scales == 4 ? word(layout.scales, 4 * index) : half_word(layout.scales, 2 * index);
      if constexpr (kBytes.supers == 4) chunk.supers = word(layout.supers, 4 * (index / 8));
      if constexpr (kBytes.supers == 2) chunk.supers = half_word(layout.supers, 2 * (index / 8));
      return chunk;
    } else {
      return codes;
    }
  }
  /// A stored piece times x's piece `piece`.
  __device__ float dot(const Stored& stored, int piece) const {
    if constexpr (kQuantized) {
      return cuda::dot<kDtype>(stored, pieces[piece]);
    } else {
      return gemv_detail::plain_dot<kDtype>(stored, pieces[piece]);
    }
  }
};

/// A block of x as fixed-point numbers in shared memory, kWarpChunks chunks of each warp. What a
/// warp brings goes through the same place.
struct FixedRoom {
  static constexpr int kLaneQuads = kXFloats / 4 / kProgramThreads;  // that a lane brings
  static constexpr int kWarpChunks = 32 * kLaneQuads / 8;
  static_assert(kLaneQuads == 4);
  uint4* of_warps;  // [kWarps][32 * kLaneQuads]

  __device__ explicit FixedRoom(float* work) : of_warps(reinterpret_cast<uint4*>(work)) {}

  /// A warp's quads, lane + 32 k: they are handed out so that two lanes side by side have a chunk,
  /// every other quad each, and few numbers need go from lane to lane.
  __device__ void put(int warp, int lane, const float4 (&brought)[kLaneQuads]) const {
    auto* const plain = reinterpret_cast<float4*>(of_warps + warp * 32 * kLaneQuads);
    const auto placed = [](int quad) { return quad ^ (quad >> 2 & 6); };  // banks
#pragma unroll
    for (int k = 0; k < kLaneQuads; ++k) plain[placed(lane + 32 * k)] = brought[k];
    __syncwarp();
    const int chunk = lane / 2;
    const int odd = lane % 2;
    float4 v[kLaneQuads];
    float most = 0;
#pragma unroll
    for (int k = 0; k < kLaneQuads; ++k) {
      v[k] = plain[placed(8 * chunk + 2 * k + odd)];
      most = largest(v[k], most);
    }
    most = larger(most, __shfl_xor_sync(~0u, most, 1));
    const FixedScale to = fixed_scale(most);
    FixedQuad quads[kLaneQuads];
#pragma unroll
    for (int k = 0; k < kLaneQuads; ++k) quads[k] = fixed_quad(v[k], to.inverse);
    int sums[2] = {quads[0].sum + quads[1].sum, quads[2].sum + quads[3].sum};
#pragma unroll
    for (int& sum : sums) sum += __shfl_xor_sync(~0u, sum, 1);
    __syncwarp();  // all have read
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      words(warp)[word_place(4 * chunk + 2 * i + odd)] =
          make_uint4(quads[0].bytes[i], quads[1].bytes[i], quads[2].bytes[i], quads[3].bytes[i]);
    }
    if (odd == 0) {
      scales(warp)[chunk] =
          make_float4(to.scale, static_cast<float>(sums[0]), static_cast<float>(sums[1]), 0);
    }
  }
  __device__ FixedX get(int chunk) const {
    const int warp = chunk / kWarpChunks;
    const int mine = chunk % kWarpChunks;
    FixedX x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 four = words(warp)[word_place(4 * mine + i)];
      std::uint32_t* const to = x.bytes[i / 2] + i % 2;
      to[0] = four.x, to[2] = four.y, to[4] = four.z, to[6] = four.w;
    }
    const float4 rest = scales(warp)[mine];
    x.scale = rest.x;
    x.sum[0] = rest.y;
    x.sum[1] = rest.z;
    return x;
  }

 private:
  /// [kWarpChunks][bytes b, bytes a][even, odd]: quads of a chunk.
  __device__ uint4* words(int warp) const { return of_warps + warp * 32 * kLaneQuads; }
  /// [kWarpChunks]: scale, two sums, unused.
  __device__ float4* scales(int warp) const {
    return reinterpret_cast<float4*>(words(warp) + 4 * kWarpChunks);
  }
  /// Threads that read neighbouring chunks meet different banks.
  __device__ static int word_place(int four) { return four ^ (four >> 3 & 3); }
};

/// x, normed but for the norm's factor, to those who own its columns, once the phase before is
/// over; returns the sum of squares of what this thread has read. It is read side by side and
/// handed out through shared memory; where every column has one owner, a warp hands out to its own
/// lanes only, and plain numbers go straight to those who own them.
template <Dtype kDtype>
__device__ float read_x(const GemvJob& job, const SentNumbers& sent, int member, int row_threads,
                        const Room& room, OwnX<kDtype>& own) {
  using Own = OwnX<kDtype>;
  constexpr int kPieceQuads = Own::kPieceCols / 4;
  constexpr int kBlockQuads = kXFloats / 4;  // at a time
  constexpr int kThreadQuads = kBlockQuads / kProgramThreads;
  constexpr int kWarpQuads = kBlockQuads / kWarps;
  // No more than half of all threads to a row: of longer rows each column has one owner.
  constexpr int kMostThreads = kProgramThreads / 2;
  constexpr int kMostBlocks = kMostThreads * kProgramThreadCols / kXFloats;
  const int row_quads = static_cast<int>(job.cols / 4);
  const bool normed = job.norm_weight != nullptr;
  const auto* const x = reinterpret_cast<const float4*>(job.x);
  const auto* const weights = reinterpret_cast<const float4*>(job.norm_weight);
  float squares = 0;
  const auto weight_of = [&](int quad) {
    return normed && quad < row_quads ? __ldg(weights + quad) : make_float4(1, 1, 1, 1);
  };
  const float none = __uint_as_float(sent.pass & sent.mask);  // is there, and 0
  // Quads of several blocks, all on their way at once, until they are there.
  const auto read = [&]<int kBlocks, int kQuads>(float4(&v)[kBlocks][kQuads], const auto& quad_of) {
    std::uint32_t missing;
    do {
      missing = 0;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int k = 0; k < kQuads; ++k) {
          const int quad = quad_of(block, k);
          v[block][k] =
              quad < row_quads ? SentNumbers::load(x + quad) : make_float4(none, none, none, none);
        }
      }
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int k = 0; k < kQuads; ++k) missing |= sent.differing(v[block][k]);
      }
    } while (__any_sync(~0u, (missing & sent.mask) != 0));
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int k = 0; k < kQuads; ++k) v[block][k] = sent.plain(v[block][k]);
    }
  };
  const auto norm = [&](const float4& v, const float4& w) {
    squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
    return make_float4(v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w);
  };
  if constexpr (!Own::kQuantized) {
    if (row_threads == kProgramThreads) {
      const auto quad_of = [&](int p, int i) {
        return (member + p * row_threads) * kPieceQuads + i;
      };
      await_phase(room);
      float4 v[Own::kPieces][kPieceQuads];
      read(v, quad_of);
#pragma unroll
      for (int p = 0; p < Own::kPieces; ++p) {
        if (normed) {
#pragma unroll
          for (int i = 0; i < kPieceQuads; ++i) v[p][i] = norm(v[p][i], weight_of(quad_of(p, i)));
        }
        own.set(p, [&](int i) { return v[p][i]; });
      }
      return squares;
    }
  }
  const int warp = own_thread() / 32;
  const int lane = own_thread() % 32;
  [[maybe_unused]] const FixedRoom fixed(room.work());
  [[maybe_unused]] auto* const quads = reinterpret_cast<float4*>(room.work());
  if constexpr (Own::kQuantized) {
    if (row_threads == kProgramThreads) {
      // A warp reads its lanes' chunks, 16 at a time.
      constexpr int kRounds = 2 * Own::kPieces;
      const auto first_quad = [&](int round) {
        return (round / 2 * kProgramThreads + 32 * warp + 16 * (round % 2)) * kPieceQuads;
      };
      const auto quad_of = [&](int round, int k) { return first_quad(round) + lane + 32 * k; };
      await_phase(room);
      float4 v[kRounds][kThreadQuads];
      read(v, quad_of);
      if (normed) {
#pragma unroll
        for (int round = 0; round < kRounds; ++round) {
#pragma unroll
          for (int k = 0; k < kThreadQuads; ++k) {
            v[round][k] = norm(v[round][k], weight_of(quad_of(round, k)));
          }
        }
      }
#pragma unroll
      for (int round = 0; round < kRounds; ++round) {
        if (first_quad(round) >= row_quads) break;
        if (round > 0) __syncwarp();  // the last round's have been taken
        fixed.put(warp, lane, v[round]);
        __syncwarp();
        if (lane / 16 == round % 2) own.pieces[round / 2] = fixed.get(16 * warp + lane % 16);
      }
      return squares;
    }
  }
  const auto at_quad = [&](int k) {
    return Own::kQuantized ? warp * kWarpQuads + lane + 32 * k : own_thread() + k * kProgramThreads;
  };
  const auto quad_of = [&](int block, int k) { return block * kBlockQuads + at_quad(k); };
  float4 w[kThreadQuads];  // of a block
#pragma unroll
  for (int k = 0; k < kThreadQuads; ++k) w[k] = weight_of(quad_of(0, k));
  await_phase(room);
  float4 v[kMostBlocks][kThreadQuads];
  read(v, quad_of);
#pragma unroll
  for (int block = 0; block < kMostBlocks; ++block) {
    if (block * kBlockQuads >= row_quads) break;
    if (block > 0) {
#pragma unroll
      for (int k = 0; k < kThreadQuads; ++k) w[k] = weight_of(quad_of(block, k));
      join();  // the last block has been taken
    }
#pragma unroll
    for (int k = 0; k < kThreadQuads; ++k) v[block][k] = norm(v[block][k], w[k]);
    if constexpr (Own::kQuantized) {
      fixed.put(warp, lane, v[block]);
    } else {
#pragma unroll
      for (int k = 0; k < kThreadQuads; ++k) {
        quads[gemv_detail::staged(at_quad(k))] = v[block][k];
      }
    }
    join();
#pragma unroll
    for (int p = 0; p < Own::kPieces; ++p) {
      const int first = (member + p * row_threads) * kPieceQuads - block * kBlockQuads;
      if (first < 0 || first >= kBlockQuads) continue;
      if constexpr (Own::kQuantized) {
        own.pieces[p] = fixed.get(first / kPieceQuads);
      } else {
        own.set(p, [&](int i) { return quads[gemv_detail::staged(first + i)]; });
      }
    }
  }
  return squares;
}

#endif

}  // namespace sedpa::cuda::program
