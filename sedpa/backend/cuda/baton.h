#pragma once
// How the kernels of a pass of one token keep the memory busy between them. Each of them streams
// much through shared memory and then has to end, while the next one waits for it and reads its
// input: some microseconds, at several kernels a layer, in which the memory would rest. (Having the
// next weights fetched into the L2 cache meanwhile gains nothing: it gives them hardly faster than
// the memory does.) So the next kernel's CTAs are there already, one beside each of this kernel's,
// and fill their own shared memory: not at once, when they would only take turns with this kernel's
// copies, but when the CTA of their number has asked for its last bytes, and hands on the baton.
//
// Batons decide when copies of what does not change are asked for, never what is computed.
#include <cstdint>

namespace sedpa::cuda {

/// A kernel's place in the chain, passed to it by value.
struct Baton {
  std::uint32_t* take = nullptr;  // [take_ctas] flags of the kernel in front; null: begin at once
  std::int32_t take_ctas = 0;
  std::uint32_t* give = nullptr;  // [CTAs] flags for the kernel behind; null: nobody waits
};

/// Hands out batons to the kernels of a pass, in their order. A flag belongs to one kernel and one
/// CTA of a recorded pass; whoever takes it clears it for the next replay.
class BatonChain {
 public:
  BatonChain() = default;
  /// `flags` [kernels, ctas], zeros, in device memory.
  BatonChain(std::uint32_t* flags, std::int32_t kernels, std::int32_t ctas)
      : flags_(flags), kernels_(kernels), stride_(ctas) {}

  /// For the next kernel, of so many CTAs: at most those of a row of flags.
  [[nodiscard]] Baton next(std::int32_t ctas) {
    Baton baton;
    if (flags_ == nullptr) return baton;
    if (front_ctas_ > 0) {
      baton.take = flags_ + std::int64_t{used_ - 1} * stride_;
      baton.take_ctas = front_ctas_;
    }
    front_ctas_ = 0;
    if (used_ < kernels_ && ctas <= stride_) {
      baton.give = flags_ + std::int64_t{used_++} * stride_;
      front_ctas_ = ctas;
    }
    return baton;
  }
  /// A kernel without a baton comes next.
  void interrupt() { front_ctas_ = 0; }

 private:
  std::uint32_t* flags_ = nullptr;
  std::int32_t kernels_ = 0;
  std::int32_t stride_ = 0;
  std::int32_t used_ = 0;
  std::int32_t front_ctas_ = 0;  // of the kernel in front, when it gives its baton
};

#ifdef __CUDACC__
/// Returns when the CTA of our number in the kernel in front has asked for its last bytes. By all
/// threads.
__device__ inline void take(const Baton& baton) {
  if (baton.take == nullptr) return;
  if (threadIdx.x == 0 && static_cast<int>(blockIdx.x) < baton.take_ctas) {
    volatile std::uint32_t* const flag = baton.take + blockIdx.x;
    while (*flag == 0) __nanosleep(64);
    *flag = 0;
  }
  __syncthreads();
}
/// By one thread, once.
__device__ inline void give(const Baton& baton) {
  if (baton.give != nullptr) *static_cast<volatile std::uint32_t*>(baton.give + blockIdx.x) = 1;
}
#endif

}  // namespace sedpa::cuda
