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
        for (int k = 0; k < kQuads; ++k) missing |= sent.missing(v[block][k]);
      }
    } while (__any_sync(~0u, missing != 0));
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
  const int thread = own_thread();
  [[maybe_unused]] FixedRoom fixed(room.work());
  [[maybe_unused]] auto* const quads = reinterpret_cast<float4*>(room.work());
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
      await_phase(room);
      float4 v[kRounds][kLaneQuads];
      read(v, quad_of);
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
          fixed.put(warp * kWarpQuads + lane + 32 * k, v[round][k]);
        }
        __syncwarp();
        if (lane / 16 == round % 2) own.pieces[round / 2] = fixed.get(16 * warp + lane % 16);
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
    for (int k = 0; k < kThreadQuads; ++k) {
      const int quad = thread + k * kProgramThreads;
      const float4 normal = norm(v[block][k], w[k]);
      if constexpr (Own::kQuantized) {
        fixed.put(quad, normal);
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
        own.pieces[p] = fixed.get(first / kPieceQuads);
      } else {
        own.set(p, [&](int i) { return quads[gemv_detail::staged(first + i)]; });
      }
    }
  }
  return squares;
}

/// What a product's threads do at each stage is little, so that what they do around it counts: a
/// branch that is taken costs as much as 16 bytes of weights times x.
template <Dtype kDtype>
__device__ __forceinline__ Place multiply(const ProductPhase& phase, const Room& room, Place at) {
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
  // [steps of a pass, streams, row_warps]: a warp's is at its own number.
  float* const warp_sums = room.sums();
  std::int32_t* const step_outputs = room.step_outputs();  // first output of each
  // [threads], of the outputs that a thread finishes first in a pass: asked for as soon as it is
  // known which that is.
  float* const residuals = room.residuals();
  const StageShare share =
      StageShare::make(steps.stages, phase.ctas, static_cast<int>(blockIdx.x) - phase.first_cta);
  const int stage_steps = uniform(phase.stage_steps);
  const int pass_stages = uniform(kProgramPassSteps / stage_steps);
  // Stages that are not the last and hold the outputs that follow those of the stage before.
  const int plain_stages = uniform(max(share.end - share.begin - 1, 0));

  Own own;
  own.clear();
  float squares =
      read_x<kDtype>(job, SentNumbers(room, phase.x_from), member, row_threads, room, own);
  if (job.norm_weight != nullptr) {
    squares = warp_sum(squares);
    if (lane == 0) room.squares()[warp] = squares;
  }

  // The thread's row in a stage.
  const bool in_up = paired && stream >= steps.step_outputs;
  const int row_at =
      (in_up ? steps.stage_outputs + stream - steps.step_outputs : stream) * row_bytes;
  // Its pieces of a row. A thread without a piece of its own takes the row's last one, times zeros:
  // no branches.
  const int row_pieces = static_cast<int>((job.cols + Own::kPieceCols - 1) / Own::kPieceCols);
  constexpr int kHalf = Own::kPieces / 2;
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

  const int stages = room.p.stages;
  Place next = at;
  next.next(stages);
  const auto take = [&] { wait_barrier_together(room.stage_there(at.index), at.parity); };
  const auto release = [&] {
    __syncwarp();  // all lanes have read the stage
    if (lane == 0) arrive(room.stage_read(at.index));
    at = next;
    next.next(stages);
  };

  // Sums of four steps are reduced over the warp together.
  float sums[kGroupSteps] = {};
  int done = 0;  // steps of the pass
  const auto push = [&](float sum) {
#pragma unroll
    for (int r = 0; r + 1 < kGroupSteps; ++r) sums[r] = sums[r + 1];
    sums[kGroupSteps - 1] = sum;
    ++done;
  };
  const auto reduce = [&] {
    const float sum = reduce_four(sums, lane);
    if ((lane & 7) == 0) warp_sums[(done - kGroupSteps + (lane >> 3)) * kWarps + warp] = sum;
  };

  // Outputs of the first `plain_steps` steps of a pass follow each other from `first_output` on; of
  // the others those are in step_outputs that each begins with.
  int plain_steps = 0;
  int first_output = 0;
  const auto begin_pass = [&](int stage) {
    done = 0;
    plain_steps = min(max(plain_stages - stage, 0), pass_stages) * stage_steps;
    first_output = (share.begin + stage) * steps.stage_outputs;
    if (job.residual != nullptr && thread < plain_steps * steps.step_outputs) {
      copy_number(residuals + thread, job.residual + first_output + thread);
    }
  };
  /// Takes note of a stage that says whose outputs it holds, and whether it is the last.
  const auto note_outputs = [&] {
    const int marked = room.output(at.index);
    const bool last = marked < 0;
    const int first = last ? ~marked : marked;
    if (thread < stage_steps) {
      step_outputs[done + thread] = first + thread * steps.step_outputs;
    }
    const int mine = thread - done * steps.step_outputs;
    const int here = min(steps.stage_outputs, outputs - first);
    if (job.residual != nullptr && mine >= 0 && mine < here) {
      copy_number(residuals + thread, job.residual + first + mine);
    }
    return last;
  };
  const auto finish_pass = [&] {
    const int all = done;
    if (done % kGroupSteps != 0) {
#pragma unroll 1
      do push(0);
      while (done % kGroupSteps != 0);
      reduce();
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
    const auto product = [&](int step, int row) {
      const float* const of = warp_sums + step * kWarps + row * row_warps;
      float part[kWarps];
#pragma unroll
      for (int w = 0; w < kWarps; ++w) part[w] = w < row_warps ? of[w] : 0;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += part[w];
      return sum * factor;
    };
    for (int i = thread; i < all * steps.step_outputs; i += kProgramThreads) {
      const int step = i >> steps.step_outputs_log2;
      const int row = i & (steps.step_outputs - 1);
      const int output = step < plain_steps ? first_output + i : step_outputs[step] + row;
      if (output >= outputs) continue;
      float residual = 0;
      if (job.residual != nullptr) {
        const float* const from = job.residual + output;
        residual = SentNumbers(room, phase.residual_from)
                       .settle(from, i == thread ? residuals[thread] : SentNumbers::load(from));
      }
      float gate = 1;
      if (job.gate != nullptr) {
        const float* const from = job.gate + output;
        gate = SentNumbers(room, phase.gate_from).settle(from, SentNumbers::load(from));
      }
      const float number =
          outcome(job, output, product(step, row),
                  paired ? product(step, row + steps.step_outputs) : 0.0f, gate, residual);
      send(phase.sent + output, number, room.pass());
      if (job.out != nullptr) job.out[output] = number;
    }
  };

  const int step_bytes = steps.step_outputs * row_bytes;
  // row_sum(row) begins with the stage that has been taken, and ends with one.
  const auto run = [&](const auto& row_sum) {
    int stage = 0;
    bool last = false;
    while (!last) {
      begin_pass(stage);
      for (int end = stage + pass_stages; stage < end; ++stage) {
        take();
        if (stage >= plain_stages) {
          last = __any_sync(~0u, note_outputs());
          if (last) end = stage + 1;
        }
        const std::byte* row = room.stage(at.index) + row_at;
        int left = stage_steps;
        do {
          push(row_sum(row));
          row += step_bytes;
          if (done % kGroupSteps == 0) reduce();
        } while (--left > 0);
        release();
      }
      finish_pass();
      if (!last) join();
    }
  };
  if (phase.row_parts > 1) {
    if constexpr (!Own::kQuantized) {
      run([&](const std::byte* row) {
        const float sum = half_sum(0, row);
        release();
        take();
        return sum + half_sum(1, room.stage(at.index) - phase.part_bytes);
      });
    }
  } else if (row_pieces > kHalf * row_threads) {
    run([&](const std::byte* row) { return half_sum(0, row) + half_sum(1, row); });
  } else {
    run([&](const std::byte* row) { return half_sum(0, row); });
  }
  return at;
}

#endif

}  // namespace sedpa::cuda::program
