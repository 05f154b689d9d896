#pragma once
// The kernel of one row. The floor is the time that memory takes to give the weights, and
// everything here serves to keep it busy:
//
// - One CTA a multiprocessor takes an equal run of rows, from end to end of the matrix, in order.
// - L threads share a row; a thread owns the same columns of all of them, 32 (or 64 of very wide
//   rows), and holds its part of x in registers: f32, or fixed-point where weights are quantised
//   (decode.cuh). Threads / L rows go side by side: a "step".
// - Weights pass through a ring in shared memory, filled by asynchronous copies. A thread copies
//   just what it will itself use, so it waits for its own copies alone: no barriers on the way.
// - The ring is first filled before the previous kernel's end (weights do not change), so that
//   launch and drain are hidden; then x is read while the first weights arrive. The factor of the
//   norm is the same for all columns, and is applied to the products.
// - Shared memory and registers leave room for the next kernel's CTA beside this one.
//
// Sums are formed in an order that depends on the shape and the number of threads alone: results
// repeat bit for bit.
#include <cstdint>

#include "sedpa/backend/cuda/decode.cuh"
#include "sedpa/backend/cuda/gemv.h"
#include "sedpa/backend/cuda/launch.h"
#include "sedpa/backend/cuda/row_product.cuh"

namespace sedpa::cuda {

/// Sums of warps that shared memory holds at a time, f32.
inline constexpr int kSums = 4096;
/// Outputs of a CTA whose residuals are read before the products are there.
inline constexpr int kEarlyResiduals = 128;

/// A thread owns kUnits * 32 columns.
template <Dtype kDtype, int kUnits, int kThreads>
struct GemvShape {
  static constexpr int kThreadsLog2 = kThreads == 256 ? 8 : 9;
  static_assert(kThreads == 1 << kThreadsLog2);
  static constexpr ChunkBytes kChunkBytes = chunk_bytes(kDtype);
  static constexpr bool kQuantized = is_quantized(kDtype);
  /// A piece: what a thread copies at once. 16 bytes of plain numbers, or a chunk.
  static constexpr int kPieceCols =
      kQuantized ? static_cast<int>(kChunk) : static_cast<int>(16 / number_bytes(kDtype));
  static constexpr int kPieces = kUnits * 32 / kPieceCols;  // of a thread and row
  /// A stage holds a piece of each thread: [threads][16 bytes] of codes (twice for q8_0), then
  /// [threads][kSideBytes]: high bits, a word of scales, a word of supers. Where scales are shorter
  /// than a word, neighbours copy the same one.
  static constexpr int kSideUsed = kChunkBytes.high + 4 + (kChunkBytes.supers != 0 ? 4 : 0);
  static constexpr int kSideBytes = !kQuantized ? 0 : kSideUsed > 8 ? 16 : kSideUsed > 4 ? 8 : 4;
  static constexpr int kSide = kThreads * (kQuantized ? kChunkBytes.codes : 16);
  static constexpr int kStageBytes = kSide + kThreads * kSideBytes;
  static constexpr int kStepBytes = kPieces * kStageBytes;
  /// A CTA of few registers leaves room for another.
  static constexpr bool kShares = kUnits * kThreads <= 512;
  static constexpr int kRingLimit = (kShares ? 96 : 144) * 1024;
  static constexpr int kRingSteps = kRingLimit / kStepBytes > 0 ? kRingLimit / kStepBytes : 1;
  static constexpr int kStages = kRingSteps * kPieces;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kSharedBytes = kRingBytes + kSums * 4;
  /// Steps whose sums fit: a step makes one for each warp.
  static constexpr int kPassSteps = kSums / (kThreads / 32);
  static_assert(kPassSteps % gemv_detail::kGroupSteps == 0);
  static constexpr std::int64_t kMostCols = std::int64_t{kThreads} * 32 * kUnits;

  /// Whether a device has the memory, with 1 KB for what is not in the ring and the sums.
  static bool runs_on(const DeviceTraits& device) {
    return device.shared_bytes_a_block >= kSharedBytes + 1024;
  }
};

struct GemvKernelJob {
  GemvJob job;
  RowLayout layout;
  int row_threads_log2 = 5;  // L
};

namespace gemv_detail {

/// Output i. residual: its own, 0 where there is none.
__device__ __forceinline__ void finish(const GemvJob& job, std::int64_t i, float v, float up,
                                       float residual) {
  const float gate = job.gate != nullptr ? __ldcg(job.gate + i) : 1.0f;
  job.out[i] = outcome(job, i, v, up, gate, residual);
}

template <int kBytes>
__device__ __forceinline__ void copy_async(std::uint32_t to, const std::byte* from) {
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(kBytes)
                 : "memory");
  }
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Until all but the last kPending groups of the thread's copies are there.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ __forceinline__ void wait_for_all_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/// Where the parts of a thread's first piece are, from its codes on, in a row in memory.
struct PieceOffsets {
  int more_codes = 0;
  int high = 0;
  int scales = 0;
  int supers = 0;
};

template <Dtype kDtype>
__device__ __forceinline__ PieceOffsets piece_offsets(const RowLayout& layout, int piece) {
  constexpr ChunkBytes kBytes = chunk_bytes(kDtype);
  PieceOffsets at;
  at.more_codes = static_cast<int>(layout.high / 2);
  at.high = static_cast<int>(layout.high) + (kBytes.high - 16) * piece;
  at.scales = static_cast<int>(layout.scales) + (kBytes.scales * piece & ~3) - 16 * piece;
  at.supers = static_cast<int>(layout.supers) + (kBytes.supers * (piece / 8) & ~3) - 16 * piece;
  return at;
}

/// Copies a piece that lies `beyond` pieces, a multiple of 32, after the thread's first one in the
/// row. codes: of the first piece. to: where the thread's codes go in the stage, side: its side.
template <class Shape>
__device__ __forceinline__ void copy_piece(std::uint32_t to, std::uint32_t side,
                                           const std::byte* codes, const PieceOffsets& at,
                                           int beyond, int threads) {
  copy_async<16>(to, codes + 16 * beyond);
  if constexpr (Shape::kQuantized) {
    constexpr ChunkBytes kBytes = Shape::kChunkBytes;
    if constexpr (kBytes.codes == 32) {
      copy_async<16>(to + 16 * threads, codes + at.more_codes + 16 * beyond);
    }
    if constexpr (kBytes.high != 0) {
      copy_async<kBytes.high>(side, codes + (at.high + kBytes.high * beyond));
    }
    copy_async<4>(side + kBytes.high, codes + (at.scales + kBytes.scales * beyond));
    if constexpr (kBytes.supers != 0) {
      copy_async<4>(side + kBytes.high + 4, codes + (at.supers + kBytes.supers * (beyond / 8)));
    }
  }
}

/// The piece's sum of numbers times x, from the thread's part of a stage. piece: counted in the
/// row, or any that is as far modulo 16.
template <class Shape, Dtype kDtype>
__device__ __forceinline__ float piece_dot(const std::byte* from, const std::byte* side, int piece,
                                           int threads, const float* x, const FixedX& fixed_x) {
  const uint4 codes = *reinterpret_cast<const uint4*>(from);
  if constexpr (Shape::kQuantized) {
    constexpr ChunkBytes kBytes = Shape::kChunkBytes;
    Chunk chunk;
    chunk.codes = codes;
    if constexpr (kBytes.codes == 32) {
      chunk.more_codes = *reinterpret_cast<const uint4*>(from + 16 * threads);
    }
    if constexpr (Shape::kSideBytes == 4) {
      chunk.scales = *reinterpret_cast<const std::uint32_t*>(side);
    } else if constexpr (Shape::kSideBytes == 8) {
      const uint2 both = *reinterpret_cast<const uint2*>(side);
      chunk.high.x = both.x;
      chunk.scales = kBytes.high == 4 ? both.y : both.x;
      chunk.supers = both.y;
    } else {
      const uint4 all = *reinterpret_cast<const uint4*>(side);
      chunk.high = make_uint2(all.x, all.y);
      chunk.scales = kBytes.high == 4 ? all.y : all.z;
      chunk.supers = kBytes.high == 4 ? all.z : all.w;
    }
    if constexpr (kBytes.scales == 2) chunk.scales >>= 16 * (piece & 1);
    if constexpr (kBytes.supers == 2) chunk.supers >>= 16 * (piece >> 3 & 1);
    return dot<kDtype>(chunk, fixed_x);
  } else {
    return plain_dot<kDtype>(codes, x);
  }
}

}  // namespace gemv_detail

template <Dtype kDtype, int kUnits, int kThreads>
__global__ void __launch_bounds__(kThreads, GemvShape<kDtype, kUnits, kThreads>::kShares ? 2 : 1)
    gemv_kernel(const __grid_constant__ GemvKernelJob kernel_job) {
  using namespace gemv_detail;
  using Shape = GemvShape<kDtype, kUnits, kThreads>;
  constexpr int kPieces = Shape::kPieces;
  constexpr int kPieceCols = Shape::kPieceCols;
  constexpr int kRingSteps = Shape::kRingSteps;
  constexpr int kPassSteps = Shape::kPassSteps;
  extern __shared__ __align__(128) std::byte shared[];
  __shared__ float warp_squares[kThreads / 32];
  __shared__ float residuals[kEarlyResiduals];
  float* const warp_sums = reinterpret_cast<float*>(shared + Shape::kRingBytes);  // [kSums]

  const GemvJob& job = kernel_job.job;
  const RowLayout& layout = kernel_job.layout;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread & 31;
  const int row_log2 = kernel_job.row_threads_log2;
  const int row_threads = 1 << row_log2;
  const int member = thread & (row_threads - 1);  // of the threads that share a row
  const int stream = thread >> row_log2;          // which of the rows side by side
  const int streams = kThreads >> row_log2;       // rows of a step
  const int row_warps = row_threads >> 5;
  const bool paired = job.up_rows != nullptr;

  // This CTA's outputs, and its rows in steps. Rows are counted through: gate and up rows
  // alternate.
  const std::int64_t begin = job.outputs * blockIdx.x / gridDim.x;
  const int outputs = static_cast<int>(job.outputs * (blockIdx.x + 1) / gridDim.x - begin);
  const int rows = paired ? 2 * outputs : outputs;
  const int steps = (rows + streams - 1) >> (Shape::kThreadsLog2 - row_log2);
  const int my_steps =
      stream < rows ? (rows - stream + streams - 1) >> (Shape::kThreadsLog2 - row_log2) : 0;

  // The thread's pieces of a row: member, member + L, ...
  const int row_pieces = static_cast<int>((job.cols + kPieceCols - 1) / kPieceCols);
  int my_pieces = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) my_pieces += member + p * row_threads < row_pieces ? 1 : 0;

  // Steps of this thread, and its codes in the rows of even and of odd steps, which go on by
  // `advance`.
  const int limit = my_pieces > 0 ? my_steps : 0;
  const std::byte* codes[2];
  std::int64_t advance;
  if (paired && streams == 1) {
    codes[0] = job.rows + begin * layout.bytes + 16 * member;
    codes[1] = job.up_rows + begin * layout.bytes + 16 * member;
    advance = layout.bytes;
  } else {
    const std::byte* matrix = paired && (stream & 1) != 0 ? job.up_rows : job.rows;
    const std::int64_t step_bytes = (paired ? streams >> 1 : streams) * layout.bytes;
    codes[0] = matrix + (begin + (paired ? stream >> 1 : stream)) * layout.bytes + 16 * member;
    codes[1] = codes[0] + step_bytes;
    advance = 2 * step_bytes;
  }
  const PieceOffsets offsets = piece_offsets<kDtype>(layout, member);

  // Weights do not change: they set off before anything else.
  const auto ring = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int side_shift = Shape::kSide + (Shape::kSideBytes - 16) * thread;  // codes to side
#pragma unroll
  for (int i = 0; i < kRingSteps; ++i) {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      if (i < limit && p < my_pieces) {
        const std::uint32_t to = ring + (i * kPieces + p) * Shape::kStageBytes + 16 * thread;
        copy_piece<Shape>(to, to + side_shift, codes[i % 2], offsets, p * row_threads, kThreads);
      }
      commit_copies();
    }
    codes[i % 2] += advance;
  }

  const int cols = static_cast<int>(job.cols);
  // So are the norm's weights, where the room for sums holds them.
  const bool early_norm = !Shape::kQuantized && job.norm_weight != nullptr && cols <= kSums;
  if (early_norm) {
    for (int c = thread; c < cols; c += kThreads) warp_sums[c] = job.norm_weight[c];
    __syncthreads();
  }
  wait_for_previous();
  let_next_begin();

  if (job.residual != nullptr && thread < min(outputs, kEarlyResiduals)) {
    copy_async<4>(static_cast<std::uint32_t>(__cvta_generic_to_shared(residuals + thread)),
                  reinterpret_cast<const std::byte*>(job.residual + begin + thread));
  }

  // x, into the registers of those who own its columns. The norm's factor is applied to sums.
  float x[kUnits * 32];    // for plain types
  FixedX fixed_x[kUnits];  // for quantised ones
  float squares = 0;
  const bool aligned = reinterpret_cast<std::uintptr_t>(job.x) % sizeof(float4) == 0;
  if constexpr (Shape::kQuantized) {
    // Read side by side, a block of columns after the other, and handed out as chunks.
    constexpr int kQuads = kSums / 4 / kThreads;  // of a thread and block
    auto* const quads = reinterpret_cast<float4*>(warp_sums);
#pragma unroll
    for (int p = 0; p < kPieces; ++p) clear(fixed_x[p]);
    for (int first = 0; first < cols; first += kSums) {
#pragma unroll
      for (int k = 0; k < kQuads; ++k) {
        const int quad = thread + k * kThreads;
        float v[4];
        float w[4] = {1, 1, 1, 1};
        load_columns<4>(job.x, first + 4 * quad, cols, aligned, v);
        if (job.norm_weight != nullptr) {
          load_columns<4>(job.norm_weight, first + 4 * quad, cols, true, w);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) squares = fmaf(v[i], v[i], squares);
        quads[staged(quad)] = make_float4(v[0] * w[0], v[1] * w[1], v[2] * w[2], v[3] * w[3]);
      }
      __syncthreads();
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        const int quad = (member + p * row_threads) * 8 - first / 4;
        if (quad >= 0 && quad < kSums / 4) {
          fixed_x[p] = fixed([&](int i) { return quads[staged(quad + i)]; });
        }
      }
      if (first + kSums < cols) __syncthreads();
    }
  } else {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      load_columns<kPieceCols>(job.x, (member + p * row_threads) * kPieceCols, cols, aligned,
                               x + p * kPieceCols);
    }
    if (job.norm_weight != nullptr) {
      const float* const weights = early_norm ? warp_sums : job.norm_weight;
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        float weight[kPieceCols];
        load_columns<kPieceCols>(weights, (member + p * row_threads) * kPieceCols, cols, true,
                                 weight);
#pragma unroll
        for (int i = 0; i < kPieceCols; ++i) {
          float& here = x[p * kPieceCols + i];
          squares = fmaf(here, here, squares);
          here *= weight[i];
        }
      }
    }
  }
  if (job.norm_weight != nullptr) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(~0u, squares, offset);
    }
    if (lane == 0) warp_squares[thread >> 5] = squares;
  }
  __syncthreads();       // squares are there; the room is free for sums
  int at = 16 * thread;  // of the thread's codes in the ring
  int left = limit;      // steps to go, and steps to copy for
  int to_copy = limit - kRingSteps;
  for (int pass = 0; pass < steps; pass += kPassSteps) {
    const int pass_end = min(steps, pass + kPassSteps);
    for (int group = pass; group < pass_end; group += kGroupSteps) {
      float sums[kGroupSteps];
#pragma unroll
      for (int r = 0; r < kGroupSteps; ++r) {
        sums[r] = 0;
        if (left <= r) continue;
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
          wait_for_copies<Shape::kStages - 1>();
          if (p == 0 || p < my_pieces) {
            const int here = at + p * Shape::kStageBytes;
            sums[r] += piece_dot<Shape, kDtype>(shared + here, shared + here + side_shift, member,
                                                kThreads, x + p * kPieceCols,
                                                fixed_x[p * kPieceCols / 32]);
            if (to_copy > r) {
              copy_piece<Shape>(ring + here, ring + here + side_shift, codes[(r + kRingSteps) % 2],
                                offsets, p * row_threads, kThreads);
            }
          }
          commit_copies();
        }
        codes[(r + kRingSteps) % 2] += advance;
        at += Shape::kStepBytes;
        if (at >= Shape::kRingBytes) at -= Shape::kRingBytes;
      }
      left -= kGroupSteps;
      to_copy -= kGroupSteps;
      const float sum = reduce_four(sums, lane);
      const int step = group + (lane >> 3);
      if ((lane & 7) == 0 && step < pass_end) {
        warp_sums[((step - pass) * streams + stream) * row_warps + (member >> 5)] = sum;
      }
    }
    // Where there were few steps, residuals may still be on their way.
    if (pass == 0 && job.residual != nullptr) wait_for_all_copies();
    __syncthreads();

    float factor = 1;
    if (job.norm_weight != nullptr) {
      // Plain types: every group of L threads has read all of x, so the first counts.
      constexpr int kWarps = kThreads / 32;
      const int warps = Shape::kQuantized ? kWarps : row_warps;
      float total = 0;
      for (int w = 0; w < warps; ++w) total += warp_squares[w];
      factor = 1.0f / sqrtf(total / static_cast<float>(cols) + job.epsilon);
    }
    const auto product = [&](int i) {
      float sum = 0;
      for (int w = 0; w < row_warps; ++w) sum += warp_sums[i * row_warps + w];
      return sum * factor;
    };
    const int first = pass * streams;  // row of the pass
    const int count = min(pass_end * streams, rows) - first;
    if (paired) {
      for (int i = thread; i < count / 2; i += kThreads) {
        finish(job, begin + first / 2 + i, product(2 * i), product(2 * i + 1), 0);
      }
    } else {
      for (int i = thread; i < count; i += kThreads) {
        const int output = first + i;
        float residual = 0;
        if (job.residual != nullptr) {
          residual = output < kEarlyResiduals ? residuals[output] : job.residual[begin + output];
        }
        finish(job, begin + output, product(i), 0, residual);
      }
    }
    if (pass_end < steps) __syncthreads();
  }
}

/// Rows of any width, a CTA a row at a time, x from memory: for rows too wide for the kernel above,
/// and devices of little shared memory.
template <Dtype kDtype>
__global__ void __launch_bounds__(256)
    gemv_wide_kernel(const __grid_constant__ GemvKernelJob kernel_job) {
  using namespace gemv_detail;
  const GemvJob& job = kernel_job.job;
  const RowLayout& layout = kernel_job.layout;
  const int thread = static_cast<int>(threadIdx.x);
  __shared__ float warp_sums[3][8];
  wait_for_previous();
  let_next_begin();

  const auto block_sum = [&](float v, float(&warps)[8]) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(~0u, v, offset);
    __syncthreads();
    if ((thread & 31) == 0) warps[thread >> 5] = v;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < 8; ++w) sum += warps[w];
    return sum;
  };
  float factor = 1;
  if (job.norm_weight != nullptr) {
    float squares = 0;
    for (std::int64_t c = thread; c < job.cols; c += 256) squares += job.x[c] * job.x[c];
    const float mean = block_sum(squares, warp_sums[2]) / static_cast<float>(job.cols);
    factor = 1.0f / sqrtf(mean + job.epsilon);
  }
  const auto product = [&](const std::byte* row, float(&warps)[8]) {
    float sum = 0;
    for (std::int64_t c = 8 * thread; c < job.cols; c += 8 * 256) {
      float w[8];
      numbers<kDtype>(row, layout, static_cast<int>(c / 8), w);
      for (int k = 0; k < 8 && c + k < job.cols; ++k) {
        const float v = job.x[c + k];
        sum = fmaf(w[k], job.norm_weight != nullptr ? v * job.norm_weight[c + k] : v, sum);
      }
    }
    return block_sum(sum, warps) * factor;
  };
  for (std::int64_t i = blockIdx.x; i < job.outputs; i += gridDim.x) {
    const float v = product(job.rows + i * layout.bytes, warp_sums[0]);
    const float up =
        job.up_rows != nullptr ? product(job.up_rows + i * layout.bytes, warp_sums[1]) : 0.0f;
    if (thread == 0) finish(job, i, v, up, job.residual != nullptr ? job.residual[i] : 0.0f);
  }
}

// --- Launching --------------------------------------------------------------------------------

/// How rows that fit registers are shared out: 2 (64 columns a thread, 256 threads) would amortise
/// a step's overhead better, 1 keeps twice as many threads ready.
template <Dtype kDtype>
inline constexpr int kNarrowUnits = 1;
/// Threads that share a row.
inline int row_threads_log2(std::int64_t cols, int units) {
  int log2 = 5;
  while ((std::int64_t{32} * units << log2) < cols) ++log2;
  return log2;
}

template <Dtype kDtype, int kUnits, int kThreads>
void launch_gemv_shape(const DeviceTraits& device, cudaStream_t stream, GemvKernelJob& job) {
  job.row_threads_log2 = row_threads_log2(job.job.cols, kUnits);
  launch({.grid = dim3(static_cast<unsigned>(gemv_ctas(device, job.job))),
          .block = dim3(kThreads),
          .shared_bytes = GemvShape<kDtype, kUnits, kThreads>::kSharedBytes,
          .stream = stream,
          .early = device.compute >= 90},
         gemv_kernel<kDtype, kUnits, kThreads>, job);
}

template <Dtype kDtype>
void launch_gemv(const DeviceTraits& device, cudaStream_t stream, const GemvJob& job) {
  if (job.outputs <= 0) return;
  constexpr int kUnits = kNarrowUnits<kDtype>;
  GemvKernelJob kernel_job{.job = job, .layout = row_layout(kDtype, job.cols)};
  using Narrow = GemvShape<kDtype, kUnits, 512 / kUnits>;
  using Broad = GemvShape<kDtype, 2, 512>;
  if (job.cols <= Narrow::kMostCols && Narrow::runs_on(device)) {
    launch_gemv_shape<kDtype, kUnits, 512 / kUnits>(device, stream, kernel_job);
  } else if (job.cols <= Broad::kMostCols && Broad::runs_on(device)) {
    launch_gemv_shape<kDtype, 2, 512>(device, stream, kernel_job);
  } else {
    launch({.grid = dim3(static_cast<unsigned>(gemv_ctas(device, job))),
            .block = dim3(256),
            .stream = stream,
            .early = device.compute >= 90},
           gemv_wide_kernel<kDtype>, kernel_job);
  }
}

template <Dtype kDtype, int kUnits, int kThreads>
void allow_shared_memory(const DeviceTraits& device) {
  using Shape = GemvShape<kDtype, kUnits, kThreads>;
  if (!Shape::runs_on(device)) return;
  check(cudaFuncSetAttribute(gemv_kernel<kDtype, kUnits, kThreads>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
}

template <Dtype kDtype>
void prepare_gemv_type(const DeviceTraits& device) {
  constexpr int kUnits = kNarrowUnits<kDtype>;
  allow_shared_memory<kDtype, kUnits, 512 / kUnits>(device);
  allow_shared_memory<kDtype, 2, 512>(device);
}

}  // namespace sedpa::cuda
