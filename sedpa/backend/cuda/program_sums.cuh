#pragma once
// Sums of a product's rows over the lanes of a warp.
#include "sedpa/backend/cuda/program_room.cuh"
#include "sedpa/backend/cuda/row_product.cuh"

namespace sedpa::cuda::program {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// What the lanes of a warp have of the sums of a group of steps, until they are added up: seldom,
/// and many at once, since lanes that exchange numbers wait for each other.
template <bool kQuantized>
class LaneSums;

/// Of plain weights, in registers: all of shared memory that can be had is the ring's.
template <>
class LaneSums<false> {
 public:
  static constexpr int kSteps = program_group_steps(false);

  __device__ LaneSums(const Room& /*room*/, int warp, int lane) : warp_(warp), lane_(lane) {}
  __device__ void put(const float (&rows)[1]) {
#pragma unroll
    for (int i = 0; i + 1 < kSteps; ++i) steps_[i] = steps_[i + 1];
    steps_[kSteps - 1] = rows[0];
  }
  /// Sums of the last `count` steps to [count, kWarps].
  __device__ void add_up(float* sums, int count) {
    const float sum = gemv_detail::reduce_four(steps_, lane_);
    const int step = lane_ / 8 - (kSteps - count);
    if (lane_ % 8 == 0 && step >= 0) sums[step * kWarps + warp_] = sum;
  }

 private:
  static_assert(kSteps == gemv_detail::kGroupSteps);
  int warp_;
  int lane_;
  float steps_[kSteps] = {};
};

/// Of quantised weights, whose products take longer, in shared memory: eight at once.
template <>
class LaneSums<true> {
 public:
  static constexpr int kSteps = program_group_steps(true);
  static_assert(32 * kSteps == kWarpLaneSums);

  __device__ LaneSums(const Room& room, int warp, int lane)
      : warp_(warp), lane_(lane), begin_(room.lane_sums(warp)), to_(begin_ + lane) {}
  template <int kRows>
  __device__ void put(const float (&rows)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) to_[32 * r] = rows[r];
    to_ += 32 * kRows;
  }
  __device__ void add_up(float* sums, int count) {
    constexpr int kLanes = 32 / kSteps;  // that add up a step's
    constexpr int kQuads = 32 / kLanes / 4;
    __syncwarp();
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const float4 v = reinterpret_cast<const float4*>(begin_)[kQuads * lane_ + i];
      sum += (v.x + v.y) + (v.z + v.w);
    }
#pragma unroll
    for (int lanes = 1; lanes < kLanes; lanes *= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    const int step = lane_ / kLanes;
    if (lane_ % kLanes == 0 && step < count) sums[step * kWarps + warp_] = sum;
    to_ = begin_ + lane_;
  }

 private:
  int warp_;
  int lane_;
  float* begin_;  // [kSteps, 32]
  float* to_;     // this lane's of the next step
};

#endif

}  // namespace sedpa::cuda::program
