#pragma once
// x of a product, from the exchange to those who multiply by it: f32, or fixed-point numbers where
// weights are quantised (decode.cuh).
#include <cstdint>
#include <type_traits>

#include "sedpa/backend/cuda/program_fixed.cuh"
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

/// x as a thread brings it, by quads, and the weights of its norm. offset_of(i, k): of quad k of
/// block i, from the thread's first quad of a row on; known when this is compiled.
class XQuads {
 public:
  float squares = 0;  // sum over what has been normed, before weights

  __device__ XQuads(const GemvJob& job, const SentNumbers& sent, int first)
      : sent_(sent),
        normed_(job.norm_weight != nullptr),
        left_(row_quads(job) - first),
        x_(reinterpret_cast<const float4*>(job.x) + first),
        weights_(reinterpret_cast<const float4*>(job.norm_weight) + first) {}
  [[nodiscard]] __device__ static int row_quads(const GemvJob& job) {
    return static_cast<int>(static_cast<std::uint32_t>(job.cols) / 4);
  }
  [[nodiscard]] __device__ bool normed() const { return normed_; }
  /// All on their way at once, until they are there.
  template <int kBlocks, int kQuads, class Offset>
  __device__ void read(float4 (&v)[kBlocks][kQuads], const Offset& offset_of) const {
    const float none = __uint_as_float(sent_.pass & sent_.mask);  // is there, and 0
    std::uint32_t missing;
    do {
      missing = 0;
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
        for (int k = 0; k < kQuads; ++k) {
          v[i][k] = offset_of(i, k) < left_ ? SentNumbers::load(x_ + offset_of(i, k))
                                            : make_float4(none, none, none, none);
        }
      }
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
        for (int k = 0; k < kQuads; ++k) missing |= sent_.differing(v[i][k]);
      }
    } while (__any_sync(~0u, (missing & sent_.mask) != 0));
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
      for (int k = 0; k < kQuads; ++k) v[i][k] = sent_.plain(v[i][k]);
    }
  }
  /// The weights of block i; ones where there is no norm.
  template <int kQuads, class Offset>
  __device__ void weigh(float4 (&w)[kQuads], int i, const Offset& offset_of) const {
    const int end = normed_ ? left_ : 0;
#pragma unroll
    for (int k = 0; k < kQuads; ++k) {
      w[k] = offset_of(i, k) < end ? __ldg(weights_ + offset_of(i, k)) : make_float4(1, 1, 1, 1);
    }
  }
  /// Normed but for the norm's factor.
  template <int kQuads>
  __device__ void norm(float4 (&v)[kQuads], const float4 (&w)[kQuads]) {
#pragma unroll
    for (int k = 0; k < kQuads; ++k) {
      const float4 x = v[k];
      squares = fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, fmaf(x.w, x.w, squares))));
      v[k] = make_float4(x.x * w[k].x, x.y * w[k].y, x.z * w[k].z, x.w * w[k].w);
    }
  }

 private:
  const SentNumbers& sent_;
  bool normed_;
  int left_;  // quads of the row from the first on
  const float4* x_;
  const float4* weights_;
};

/// Where all threads share a row: each column has one owner, and what a warp brings is its own.
/// Plain numbers go straight to their owners, fixed-point numbers by way of the warp's room.
template <Dtype kDtype>
__device__ float read_own_x(const GemvJob& job, const SentNumbers& sent, const Room& room,
                            OwnX<kDtype>& own) {
  using Own = OwnX<kDtype>;
  constexpr int kPieceQuads = Own::kPieceCols / 4;
  const int thread = own_thread();
  if constexpr (Own::kQuantized) {
    // 16 chunks of a warp at a time.
    constexpr int kRounds = 2 * Own::kPieces;
    constexpr auto offset_of = [](int round, int k) {
      return (round / 2 * kProgramThreads + round % 2 * kWarpChunks) * kPieceQuads + 32 * k;
    };
    const int warp = thread / 32;
    const int lane = thread % 32;
    const int first = 32 * kPieceQuads * warp;
    XQuads quads(job, sent, first + lane);
    const FixedRoom fixed(room, warp, lane, kWarpChunks * warp + lane % 16);
    await_phase(room);
    float4 v[kRounds][FixedRoom::kLaneQuads];
    quads.read(v, offset_of);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (quads.normed()) {
        float4 w[FixedRoom::kLaneQuads];
        quads.weigh(w, round, offset_of);
        quads.norm(v[round], w);
      }
      if (first + offset_of(round, 0) >= XQuads::row_quads(job)) break;
      if (round > 0) __syncwarp();  // the last round's have been taken
      fixed.put(v[round]);
      __syncwarp();
      if (lane / 16 == round % 2) own.pieces[round / 2] = fixed.get(0);
    }
    return quads.squares;
  } else {
    constexpr auto offset_of = [](int p, int i) { return p * kProgramThreads * kPieceQuads + i; };
    XQuads quads(job, sent, thread * kPieceQuads);
    await_phase(room);
    float4 v[Own::kPieces][kPieceQuads];
    quads.read(v, offset_of);
#pragma unroll
    for (int p = 0; p < Own::kPieces; ++p) {
      if (quads.normed()) {
        float4 w[kPieceQuads];
        quads.weigh(w, p, offset_of);
        quads.norm(v[p], w);
      }
      own.set(p, [&](int i) { return v[p][i]; });
    }
    return quads.squares;
  }
}

/// Where fewer threads share a row: x is brought by blocks of kXFloats, and handed out to all who
/// own its columns through shared memory.
template <int kBlocks, Dtype kDtype>
__device__ float read_shared_x(const GemvJob& job, const SentNumbers& sent, int member,
                               int row_threads, const Room& room, OwnX<kDtype>& own) {
  using Own = OwnX<kDtype>;
  constexpr int kPieceQuads = Own::kPieceCols / 4;
  constexpr int kBlockQuads = kXFloats / 4;
  constexpr int kThreadQuads = kBlockQuads / kProgramThreads;
  constexpr int kStride = Own::kQuantized ? 32 : kProgramThreads;  // of a thread's quads
  constexpr auto offset_of = [](int block, int k) { return block * kBlockQuads + kStride * k; };
  const int thread = own_thread();
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int first = Own::kQuantized ? 32 * kThreadQuads * warp + lane : thread;
  XQuads quads(job, sent, first);
  [[maybe_unused]] const FixedRoom fixed(room, warp, lane, member);
  [[maybe_unused]] auto* const plain = reinterpret_cast<float4*>(room.work());
  float4 w[kThreadQuads];  // of a block
  quads.weigh(w, 0, offset_of);
  await_phase(room);
  float4 v[kBlocks][kThreadQuads];
  quads.read(v, offset_of);
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    if (block > 0) {
      quads.weigh(w, block, offset_of);
      join();  // the last block has been taken
    }
    quads.norm(v[block], w);
    if constexpr (Own::kQuantized) {
      fixed.put(v[block]);
    } else {
#pragma unroll
      for (int k = 0; k < kThreadQuads; ++k) {
        plain[gemv_detail::staged(first + kStride * k)] = v[block][k];
      }
    }
    join();
    if constexpr (Own::kQuantized && kBlocks == Own::kPieces) {
      own.pieces[block] = fixed.get(0);  // half of all threads share a row
    } else if constexpr (Own::kQuantized) {
#pragma unroll
      for (int p = 0; p < Own::kPieces; ++p) own.pieces[p] = fixed.get(p * row_threads);
    } else {
#pragma unroll
      for (int p = 0; p < Own::kPieces; ++p) {
        const int begin = (member + p * row_threads) * kPieceQuads - block * kBlockQuads;
        if (begin < 0 || begin >= kBlockQuads) continue;
        own.set(p, [&](int i) { return plain[gemv_detail::staged(begin + i)]; });
      }
    }
  }
  return quads.squares;
}

/// x, normed but for the norm's factor, to those who own its columns, once the phase before is
/// over; returns the sum of squares of what this thread has brought. Fewer than all threads share
/// a row only where two blocks are all of it (plan_product).
template <Dtype kDtype>
__device__ float read_x(const GemvJob& job, const SentNumbers& sent, int member, int row_threads,
                        const Room& room, OwnX<kDtype>& own) {
  if (row_threads == kProgramThreads) return read_own_x(job, sent, room, own);
  return job.cols <= kXFloats ? read_shared_x<1>(job, sent, member, row_threads, room, own)
                              : read_shared_x<2>(job, sent, member, row_threads, room, own);
}

#endif

}  // namespace sedpa::cuda::program
