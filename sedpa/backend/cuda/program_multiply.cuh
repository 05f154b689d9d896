#pragma once
// A product of one row, by all threads that compute. A thread owns the same columns of all rows
// that it meets, up to kProgramThreadCols, and holds its part of x in registers: f32, or
// fixed-point where weights are quantised (decode.cuh). The factor of a norm is the same for all
// columns, and is applied to the products. Who multiplies a row does not change its sum: results
// repeat bit for bit.
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
  /// Piece `index` of a row in shared memory, times x's piece `piece`.
  __device__ float dot(int piece, const std::byte* row, const RowLayout& layout, int index) const {
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
      return cuda::dot<kDtype>(chunk, pieces[piece]);
    } else {
      return gemv_detail::plain_dot<kDtype>(codes, pieces[piece]);
    }
  }
};

/// A block of x as fixed-point numbers in shared memory: [kXFloats / 32] chunks.
struct FixedRoom {
  static constexpr int kChunks = kXFloats / 32;
  std::uint32_t* words;  // [kChunks][bytes b, bytes a][8]
  float* scales;         // [kChunks][scale, two sums, unused]

  __device__ explicit FixedRoom(float* work)
      : words(reinterpret_cast<std::uint32_t*>(work)), scales(work + 16 * kChunks) {}

  /// Where 16 bytes of words stand: threads that read neighbouring chunks meet different banks.
  __device__ static int placed(int quad) { return quad ^ (quad >> 3 & 3); }

  /// Eight lanes side by side bring the quads of a chunk.
  __device__ void put(int quad, const float4& v) {
    float most = largest(v, 0);
#pragma unroll
    for (int lanes = 1; lanes < 8; lanes *= 2) {
      most = larger(most, __shfl_xor_sync(~0u, most, lanes));
    }
    const FixedScale to = fixed_scale(most);
    const FixedQuad fixed = fixed_quad(v, to.inverse);
    int sum = fixed.sum;
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int chunk = quad / 8;
    const int word = quad % 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      words[4 * placed(4 * chunk + 2 * i + word / 4) + word % 4] = fixed.bytes[i];
    }
    float* const to_scales = scales + 4 * chunk;
    if (word % 4 == 0) to_scales[1 + word / 4] = static_cast<float>(sum);
    if (word == 1) to_scales[0] = to.scale;
  }
  __device__ FixedX get(int chunk) const {
    FixedX x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 four = reinterpret_cast<const uint4*>(words)[placed(4 * chunk + i)];
      std::uint32_t* const to = x.bytes[i / 2] + 4 * (i % 2);
      to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
    }
    const float4 rest = reinterpret_cast<const float4*>(scales)[chunk];
    x.scale = rest.x;
    x.sum[0] = rest.y;
    x.sum[1] = rest.z;
    return x;
  }
};

/// x, normed but for the norm's factor, to those who own its columns, once `wanted` CTAs have come;
/// returns the sum of squares of what this thread has read. It is read side by side and handed out
/// through shared memory; where every column has one owner, a warp hands out to its own lanes only,
/// and plain numbers go straight to those who own them.
template <Dtype kDtype>
__device__ float read_x(const GemvJob& job, int member, int row_threads, const std::int32_t* met,
                        std::int32_t wanted, float4* quads, OwnX<kDtype>& own) {
  using Own = OwnX<kDtype>;
  constexpr int kPieceQuads = Own::kPieceCols / 4;
  constexpr int kBlockQuads = kXFloats / 4;  // at a time
  constexpr int kThreadQuads = kBlockQuads / kProgramThreads;
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
  const auto read = [&](int quad) {
    return quad < row_quads ? __ldcg(x + quad) : make_float4(0, 0, 0, 0);
  };
  const auto norm = [&](const float4& v, const float4& w) {
    squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
    return make_float4(v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w);
  };
  if constexpr (!Own::kQuantized) {
    if (row_threads == kProgramThreads) {
      await(met, wanted);
#pragma unroll
      for (int p = 0; p < Own::kPieces; ++p) {
        const int first = (member + p * row_threads) * kPieceQuads;
        float4 v[kPieceQuads];
#pragma unroll
        for (int i = 0; i < kPieceQuads; ++i) v[i] = read(first + i);
        if (normed) {
#pragma unroll
          for (int i = 0; i < kPieceQuads; ++i) v[i] = norm(v[i], weight_of(first + i));
        }
        own.set(p, [&](int i) { return v[i]; });
      }
      return squares;
    }
  }
  const int thread = own_thread();
  [[maybe_unused]] FixedRoom room(reinterpret_cast<float*>(quads));
  if constexpr (Own::kQuantized) {
    if (row_threads == kProgramThreads) {
      // A warp reads its lanes' chunks, 16 at a time.
      constexpr int kRounds = 2 * Own::kPieces;
      constexpr int kWarpQuads = kBlockQuads / kWarps;  // of a round
      constexpr int kLaneQuads = kWarpQuads / 32;
      const int warp = thread / 32;
      const int lane = thread % 32;
      const auto first_quad = [&](int round) {
        return (round / 2 * kProgramThreads + 32 * warp + 16 * (round % 2)) * kPieceQuads;
      };
      const auto quad_of = [&](int round, int k) { return first_quad(round) + lane + 32 * k; };
      await(met, wanted);
      float4 v[kRounds][kLaneQuads];
#pragma unroll
      for (int round = 0; round < kRounds; ++round) {
#pragma unroll
        for (int k = 0; k < kLaneQuads; ++k) v[round][k] = read(quad_of(round, k));
      }
      if (normed) {
#pragma unroll
        for (int round = 0; round < kRounds; ++round) {
#pragma unroll
          for (int k = 0; k < kLaneQuads; ++k) {
            v[round][k] = norm(v[round][k], weight_of(quad_of(round, k)));
          }
        }
      }
#pragma unroll
      for (int round = 0; round < kRounds; ++round) {
        if (first_quad(round) >= row_quads) break;
        if (round > 0) __syncwarp();  // the last round's have been taken
#pragma unroll
        for (int k = 0; k < kLaneQuads; ++k) {
          room.put(warp * kWarpQuads + lane + 32 * k, v[round][k]);
        }
        __syncwarp();
        if (lane / 16 == round % 2) own.pieces[round / 2] = room.get(16 * warp + lane % 16);
      }
      return squares;
    }
  }
  const auto quad_of = [&](int block, int k) {
    return block * kBlockQuads + thread + k * kProgramThreads;
  };
  float4 w[kThreadQuads];  // of a block
#pragma unroll
  for (int k = 0; k < kThreadQuads; ++k) w[k] = weight_of(quad_of(0, k));
  await(met, wanted);
  float4 v[kMostBlocks][kThreadQuads];
#pragma unroll
  for (int block = 0; block < kMostBlocks; ++block) {
#pragma unroll
    for (int k = 0; k < kThreadQuads; ++k) v[block][k] = read(quad_of(block, k));
  }
#pragma unroll
  for (int block = 0; block < kMostBlocks; ++block) {
    if (block * kBlockQuads >= row_quads) break;
    if (block > 0) {
#pragma unroll
      for (int k = 0; k < kThreadQuads; ++k) w[k] = weight_of(quad_of(block, k));
      join();  // the last block has been taken
    }
#pragma unroll
    for (int k = 0; k < kThreadQuads; ++k) {
      const int quad = thread + k * kProgramThreads;
      const float4 normal = norm(v[block][k], w[k]);
      if constexpr (Own::kQuantized) {
        room.put(quad, normal);
      } else {
        quads[gemv_detail::staged(quad)] = normal;
      }
    }
    join();
#pragma unroll
    for (int p = 0; p < Own::kPieces; ++p) {
      const int first = (member + p * row_threads) * kPieceQuads - block * kBlockQuads;
      if (first < 0 || first >= kBlockQuads) continue;
      if constexpr (Own::kQuantized) {
        own.pieces[p] = room.get(first / kPieceQuads);
      } else {
        own.set(p, [&](int i) { return quads[gemv_detail::staged(first + i)]; });
      }
    }
  }
  return squares;
}

template <Dtype kDtype>
__device__ __forceinline__ Place multiply(const ProductPhase& phase, const Room& room,
                                          std::int32_t wanted, Place at) {
  using namespace gemv_detail;
  using Own = OwnX<kDtype>;
  const GemvJob& job = phase.job;
  const RowLayout layout = phase.layout;
  const int row_bytes = static_cast<int>(layout.bytes);
  const int thread = own_thread();
  const int warp = thread >> 5;
  const int lane = thread & 31;
  const int row_threads = 1 << phase.row_threads_log2;
  const int member = thread & (row_threads - 1);        // of the threads that share a row
  const int stream = thread >> phase.row_threads_log2;  // which of the rows side by side
  const int row_warps = row_threads >> 5;
  const ProductSteps steps(phase);
  const auto outputs = static_cast<int>(job.outputs);
  const bool paired = job.up_rows != nullptr;
  float* const warp_sums = room.sums();                    // [steps of a pass, streams, row_warps]
  std::int32_t* const step_outputs = room.step_outputs();  // first output of each
  // [threads], of the outputs that a thread finishes first in a pass: asked for as soon as it is
  // known which that is.
  float* const residuals = room.residuals();

  // The thread's row in a stage, and from one step to the next.
  const int row_pieces = static_cast<int>((job.cols + Own::kPieceCols - 1) / Own::kPieceCols);
  const bool in_up = paired && stream >= steps.step_outputs;
  const int row_at = in_up ? steps.stage_outputs + stream - steps.step_outputs : stream;

  Own own;
  own.clear();
  float squares = read_x<kDtype>(job, member, row_threads, room.p.met, wanted,
                                 reinterpret_cast<float4*>(room.work()), own);
  if (job.norm_weight != nullptr) {
    squares = warp_sum(squares);
    if (lane == 0) room.squares()[warp] = squares;
  }

  const int row_parts = phase.row_parts;
  const int stage_steps = phase.stage_steps;
  const int stages = room.p.stages;
  const auto take = [&] { wait_barrier(room.stage_there(at.index), at.parity); };
  const auto release = [&] {
    __syncwarp();  // all lanes have read the stage
    if (lane == 0) arrive(room.stage_read(at.index));
    at.next(stages);
  };
  // A thread without a piece of its own takes the row's last one, times zeros: no branches.
  constexpr int kHalf = Own::kPieces / 2;
  const bool both_halves = row_pieces > kHalf * row_threads;
  int index[Own::kPieces];
#pragma unroll
  for (int p = 0; p < Own::kPieces; ++p) index[p] = min(member + p * row_threads, row_pieces - 1);
  const auto half_sum = [&](int half, const std::byte* row) {
    float sum[2] = {};
#pragma unroll
    for (int p = half * kHalf; p < (half + 1) * kHalf; ++p) {
      sum[p % 2] += own.dot(p, row, layout, index[p]);
    }
    return sum[0] + sum[1];
  };
  const auto row_sum = [&](const std::byte* row) {
    float sum = half_sum(0, row);
    if (both_halves) sum += half_sum(1, row);
    return sum;
  };
  /// Of a row in two stages.
  const auto parted_row_sum = [&] {
    const float sum = half_sum(0, room.stage(at.index));
    release();
    take();
    return sum + half_sum(1, room.stage(at.index) - phase.part_bytes);
  };

  // Sums of up to four steps are reduced over the warp together.
  float sums[kGroupSteps] = {};
  int done = 0;  // steps of the pass
  const auto reduce = [&](int last) {
    const float sum = reduce_four(sums, lane);
    const int step = last - kGroupSteps + 1 + (lane >> 3);
    if ((lane & 7) == 0 && step < done) {
      warp_sums[(step * steps.streams + stream) * row_warps + (member >> 5)] = sum;
    }
  };
  const auto push = [&](float sum) {
#pragma unroll
    for (int r = 0; r + 1 < kGroupSteps; ++r) sums[r] = sums[r + 1];
    sums[kGroupSteps - 1] = sum;
  };
  const auto finish_pass = [&] {
    if (done % kGroupSteps != 0) {
      const int missing = kGroupSteps - done % kGroupSteps;
      for (int i = 0; i < missing; ++i) push(0);
      reduce(done + missing - 1);
    }
    copied_numbers();
    join();
    float factor = 1;
    if (job.norm_weight != nullptr) {
      const auto* const squares = reinterpret_cast<const float4*>(room.squares());
      float total = 0;
#pragma unroll
      for (int w = 0; w < kWarps / 4; ++w) {
        const float4 four = squares[w];
        total += four.x + four.y + four.z + four.w;
      }
      factor =
          rsqrtf(__fdividef(total, static_cast<float>(static_cast<int>(job.cols))) + job.epsilon);
    }
    const auto product = [&](int row) {
      float sum = 0;
      for (int w = 0; w < row_warps; ++w) sum += warp_sums[row * row_warps + w];
      return sum * factor;
    };
    for (int i = thread; i < done * steps.step_outputs; i += kProgramThreads) {
      const int step = i >> steps.step_outputs_log2;
      const int row = i & (steps.step_outputs - 1);
      const int output = step_outputs[step] + row;
      if (output >= outputs) continue;
      const int at_row = step * steps.streams + row;
      float residual = 0;
      if (job.residual != nullptr) {
        residual = i == thread ? residuals[thread] : __ldcg(job.residual + output);
      }
      finish(job, output, product(at_row), paired ? product(at_row + steps.step_outputs) : 0.0f,
             residual);
    }
  };

  const auto record = [&](int output, float sum) {
    if (thread == 0) step_outputs[done] = output;
    push(sum);
    if (++done % kGroupSteps == 0) reduce(done - 1);
  };
  bool last = false;
  while (!last) {
    take();
    int first = room.output(at.index);
    last = first < 0;
    if (first == kNoOutput) {
      release();
      break;
    }
    if (last) first = ~first;
    const int here = min(steps.stage_outputs, outputs - first);
    if (done + stage_steps > kProgramPassSteps) {
      finish_pass();
      join();
      done = 0;
    }
    const int mine = thread - done * steps.step_outputs;
    if (job.residual != nullptr && mine >= 0 && mine < here) {
      copy_number(residuals + thread, job.residual + first + mine);
    }
    if (row_parts > 1) {
      if constexpr (!Own::kQuantized) record(first, parted_row_sum());
    } else {
      const std::byte* const rows = room.stage(at.index) + row_at * row_bytes;
      int output = 0;
      // Two steps at a time: neither waits for the other's sums.
      for (; output + steps.step_outputs < here; output += 2 * steps.step_outputs) {
        const int second = output + steps.step_outputs;
        const float sum = row_sum(rows + output * row_bytes);
        const float second_sum = row_sum(rows + second * row_bytes);
        record(first + output, sum);
        record(first + second, second_sum);
      }
      if (output < here) record(first + output, row_sum(rows + output * row_bytes));
    }
    release();
  }
  finish_pass();
  return at;
}

#endif

}  // namespace sedpa::cuda::program
