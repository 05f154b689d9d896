#pragma once
// x of quantised weights on its way to those who multiply by it: quads of f32 from those who bring
// them, chunks of fixed-point numbers (decode.cuh) to those who own their columns.
#include <cstdint>

#include "sedpa/backend/cuda/decode.cuh"
#include "sedpa/backend/cuda/program_room.cuh"

namespace sedpa::cuda::program {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A block of x as fixed-point numbers in shared memory, kWarpChunks chunks of each warp. What a
/// warp brings goes through the same bytes, and those of its sums of lanes, before there are any.
/// A thread's places are known before x is there.
class FixedRoom {
 public:
  static constexpr int kLaneQuads = kXFloats / 4 / kProgramThreads;  // that a lane brings

  /// chunk: the first that this thread gets; the others are whole warps' chunks further on.
  __device__ FixedRoom(const Room& in, int warp, int lane, int chunk) {
    const std::uint32_t room = shared_address(in.work());
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
    const std::uint32_t further = kWarpBytes * (static_cast<std::uint32_t>(chunks) / kWarpChunks);
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
  static_assert(16 * 32 * kLaneQuads <= kWarpBytes);
  // [kWarpChunks][first, second half][even, odd] quads of a chunk; then [kWarpChunks]: scale, two
  // sums, unused. Threads that read neighbouring chunks meet different banks: which of a chunk's
  // four places is which turns with the chunk.
  static constexpr int kScalesAt = 16 * 4 * kWarpChunks;
  static_assert(kScalesAt + 16 * kWarpChunks == kChunkBytes * kWarpChunks);

  int odd_;
  std::uint32_t brought_;
  std::uint32_t taken_;
  std::uint32_t words_;
  std::uint32_t scale_;
  std::uint32_t chunk_words_;
  std::uint32_t chunk_scale_;
};

#endif

}  // namespace sedpa::cuda::program
