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
  /// Of quantised weights, a piece; a template, so that plain ones need not have it.
  template <class Fixed>
  __device__ void take(int piece, const Fixed& fixed) {
    pieces[piece] = fixed;
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
/// warp brings goes through the same place. A thread's places in it are known before x is there.
class FixedRoom {
 public:
  static constexpr int kLaneQuads = kXFloats / 4 / kProgramThreads;  // that a lane brings
  static constexpr int kWarpChunks = 32 * kLaneQuads / 8;

  /// chunk: the first that this thread gets; the others are whole warps' chunks further on.
  __device__ FixedRoom(float* work, int warp, int lane, int chunk) {
    const std::uint32_t room = shared_address(work);
    const std::uint32_t own = room + kWarpBytes * warp;
    const int pair = lane >> 1;
    odd_ = lane & 1;
    brought_ = own + 16 * (lane ^ (lane >> 2 & 6));
    taken_ = own + 16 * (8 * pair + (odd_ ^ (lane & 6)));
    words_ = own + 16 * (4 * pair + (odd_ ^ (pair >> 1 & 3)));
    scale_ = own + kScalesAt + 16 * pair;
    const std::uint32_t mine = static_cast<std::uint32_t>(chunk) % kWarpChunks;
    const std::uint32_t other =
        room + kWarpBytes * (static_cast<std::uint32_t>(chunk) / kWarpChunks);
    chunk_words_ = other + 16 * (4 * mine + (mine >> 1 & 3));
    chunk_scale_ = other + kScalesAt + 16 * mine;
    asm("" : "+r"(brought_), "+r"(taken_), "+r"(words_), "+r"(scale_));
    asm("" : "+r"(chunk_words_), "+r"(chunk_scale_));
  }
  /// A warp's quads, lane + 32 k: they are handed out so that two lanes side by side have a chunk,
  /// every other quad each, and few numbers need go from lane to lane.
  __device__ void put(const float4 (&brought)[kLaneQuads]) const {
#pragma unroll
    for (int k = 0; k < kLaneQuads; ++k) store_shared(brought_ + 16 * 32 * k, brought[k]);
    __syncwarp();
    float4 v[kLaneQuads];
#pragma unroll
    for (int k = 0; k < kLaneQuads; ++k) v[k] = load_shared<float4>(taken_ ^ 16 * 2 * k);
    float most = larger(larger(largest(v[0], 0), largest(v[1], 0)),
                        larger(largest(v[2], 0), largest(v[3], 0)));
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
      const FixedQuad& first = quads[2 * i];
      const FixedQuad& second = quads[2 * i + 1];
      store_shared(words_ ^ 16 * 2 * i,
                   make_uint4(first.pairs[0], first.pairs[1], second.pairs[0], second.pairs[1]));
    }
    if (odd_ == 0) {
      store_shared(scale_, make_float4(to.scale, static_cast<float>(sums[0]),
                                       static_cast<float>(sums[1]), 0));
    }
  }
  /// The chunk `chunks` further on, whole warps' chunks.
  __device__ FixedX get(int chunks) const {
    const std::uint32_t further = kWarpBytes / kWarpChunks * chunks;
    FixedX x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto four = load_shared<uint4>((chunk_words_ ^ 16 * i) + further);
      std::uint32_t* const to = x.pairs + 8 * (i / 2) + 2 * (i % 2);
      to[0] = four.x, to[1] = four.y, to[4] = four.z, to[5] = four.w;
    }
    const auto rest = load_shared<float4>(chunk_scale_ + further);
    x.scale = rest.x;
    x.sum[0] = rest.y;
    x.sum[1] = rest.z;
    return x;
  }

 private:
  static_assert(kLaneQuads == 4);
  static constexpr int kWarpBytes = 16 * 32 * kLaneQuads;
  // [kWarpChunks][first, second half][even, odd] quads of a chunk; then [kWarpChunks]: scale, two
  // sums, unused. Threads that read neighbouring chunks meet different banks: which of a chunk's
  // four places is which turns with the chunk.
  static constexpr int kScalesAt = 16 * 4 * kWarpChunks;

  int odd_;
  std::uint32_t brought_;
  std::uint32_t taken_;
  std::uint32_t words_;
  std::uint32_t scale_;
  std::uint32_t chunk_words_;
  std::uint32_t chunk_scale_;
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
  const auto row_quads = static_cast<int>(static_cast<std::uint32_t>(job.cols) / 4);
  const bool normed = job.norm_weight != nullptr;
  const int thread = own_thread();
  const int warp = thread >> 5;
  const int lane = thread & 31;
  float squares = 0;
  const float none = __uint_as_float(sent.pass & sent.mask);  // is there, and 0
  // Quads of the row from `first` on, all on their way at once, until they are there.
  // offset_of(i, k): of those that a thread takes, known when this is compiled.
  const auto read = [&]<int kBlocks, int kQuads>(float4(&v)[kBlocks][kQuads], int first,
                                                 const auto& offset_of) {
    const auto* const x = reinterpret_cast<const float4*>(job.x) + first;
    const int end = row_quads - first;
    std::uint32_t missing;
    do {
      missing = 0;
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
        for (int k = 0; k < kQuads; ++k) {
          v[i][k] = offset_of(i, k) < end ? SentNumbers::load(x + offset_of(i, k))
                                          : make_float4(none, none, none, none);
        }
      }
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
        for (int k = 0; k < kQuads; ++k) missing |= sent.differing(v[i][k]);
      }
    } while (__any_sync(~0u, (missing & sent.mask) != 0));
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
      for (int k = 0; k < kQuads; ++k) v[i][k] = sent.plain(v[i][k]);
    }
  };
  // The norm's weights of a thread's quads of block i.
  const auto weigh = [&]<int kQuads>(float4(&w)[kQuads], int first, int i, const auto& offset_of) {
    const auto* const weights = reinterpret_cast<const float4*>(job.norm_weight) + first;
    const int end = normed ? row_quads - first : 0;
#pragma unroll
    for (int k = 0; k < kQuads; ++k) {
      w[k] = offset_of(i, k) < end ? __ldg(weights + offset_of(i, k)) : make_float4(1, 1, 1, 1);
    }
  };
  const auto norm = [&](float4& v, const float4& w) {
    squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
    v = make_float4(v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w);
  };
  if constexpr (!Own::kQuantized) {
    if (row_threads == kProgramThreads) {
      constexpr auto offset_of = [](int p, int i) { return p * kProgramThreads * kPieceQuads + i; };
      await_phase(room);
      float4 v[Own::kPieces][kPieceQuads];
      read(v, member * kPieceQuads, offset_of);
#pragma unroll
      for (int p = 0; p < Own::kPieces; ++p) {
        if (normed) {
          float4 w[kPieceQuads];
          weigh(w, member * kPieceQuads, p, offset_of);
#pragma unroll
          for (int i = 0; i < kPieceQuads; ++i) norm(v[p][i], w[i]);
        }
        own.set(p, [&](int i) { return v[p][i]; });
      }
      return squares;
    }
  } else if (row_threads == kProgramThreads) {
    // A warp reads its lanes' chunks, 16 at a time.
    constexpr int kRounds = 2 * Own::kPieces;
    constexpr auto offset_of = [](int round, int k) {
      return (round / 2 * kProgramThreads + round % 2 * FixedRoom::kWarpChunks) * kPieceQuads +
             32 * k;
    };
    const int first = 32 * kPieceQuads * warp + lane;
    const FixedRoom fixed(room.work(), warp, lane, FixedRoom::kWarpChunks * warp + lane % 16);
    await_phase(room);
    float4 v[kRounds][kThreadQuads];
    read(v, first, offset_of);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (normed) {
        float4 w[kThreadQuads];
        weigh(w, first, round, offset_of);
#pragma unroll
        for (int k = 0; k < kThreadQuads; ++k) norm(v[round][k], w[k]);
      }
      if (first - lane + offset_of(round, 0) >= row_quads) break;
      if (round > 0) __syncwarp();  // the last round's have been taken
      fixed.put(v[round]);
      __syncwarp();
      if (lane / 16 == round % 2) own.pieces[round / 2] = fixed.get(0);
    }
    return squares;
  }
  // No more than half of all threads to a row, so no more than two blocks of x.
  const auto read_blocks = [&]<int kBlocks>(std::integral_constant<int, kBlocks>) {
    constexpr int kStride = Own::kQuantized ? 32 : kProgramThreads;  // of a thread's quads
    constexpr auto offset_of = [](int block, int k) { return block * kBlockQuads + kStride * k; };
    const int first = Own::kQuantized ? 32 * kThreadQuads * warp + lane : thread;
    [[maybe_unused]] const FixedRoom fixed(room.work(), warp, lane, member);
    [[maybe_unused]] auto* const quads = reinterpret_cast<float4*>(room.work());
    float4 w[kThreadQuads];  // of a block
    weigh(w, first, 0, offset_of);
    await_phase(room);
    float4 v[kBlocks][kThreadQuads];
    read(v, first, offset_of);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      if (block > 0) {
        weigh(w, first, block, offset_of);
        join();  // the last block has been taken
      }
#pragma unroll
      for (int k = 0; k < kThreadQuads; ++k) norm(v[block][k], w[k]);
      if constexpr (Own::kQuantized) {
        fixed.put(v[block]);
      } else {
#pragma unroll
        for (int k = 0; k < kThreadQuads; ++k) {
          quads[gemv_detail::staged(first + kStride * k)] = v[block][k];
        }
      }
      join();
      if constexpr (Own::kQuantized && kBlocks == Own::kPieces) {
        own.take(block, fixed.get(0));  // half of all threads to a row
      } else {
#pragma unroll
        for (int p = 0; p < Own::kPieces; ++p) {
          if constexpr (Own::kQuantized) {
            own.take(p, fixed.get(p * row_threads));
          } else {
            const int begin = (member + p * row_threads) * kPieceQuads - block * kBlockQuads;
            if (begin < 0 || begin >= kBlockQuads) continue;
            own.set(p, [&](int i) { return quads[gemv_detail::staged(begin + i)]; });
          }
        }
      }
    }
  };
  if (row_quads <= kBlockQuads) {
    read_blocks(std::integral_constant<int, 1>());
  } else {
    read_blocks(std::integral_constant<int, 2>());
  }
  return squares;
}

#endif

}  // namespace sedpa::cuda::program
