#pragma once
// A product of one row, by all threads that compute. A thread owns the same columns of all rows
// that it meets, up to kProgramThreadCols, and holds its part of x in registers: f32, or
// fixed-point where weights are quantised (decode.cuh). The factor of a norm is the same for all
// columns, and is applied to the products. Who multiplies a row does not change its sum: results
// repeat bit for bit.
#include <cstdint>

#include "sedpa/backend/cuda/program_room.cuh"
#include "sedpa/backend/cuda/program_sums.cuh"
#include "sedpa/backend/cuda/program_x.cuh"
#include "sedpa/backend/cuda/row_product.cuh"

namespace sedpa::cuda::program {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Pieces [kFirst, kEnd) of those that a thread has of a row.
template <int kFirst, int kEnd>
struct PieceRange {};
/// Rows that a thread multiplies at once; kWhole: they are all that it has of a stage.
template <int kCount, bool kWhole>
struct Rows {};

/// What a product's threads do at each stage is little, so that what they do around it counts: a
/// branch that is taken costs as much as 16 bytes of weights times x.
template <Dtype kDtype>
__device__ __forceinline__ Place multiply(const ProductPhase& phase, const Room& room, Place at) {
  using gemv_detail::outcome;
  using Own = OwnX<kDtype>;
  const GemvJob job = phase.job;  // at hand when outputs are there
  const RowLayout layout = phase.layout;
  const int row_bytes = static_cast<int>(layout.bytes);
  const int thread = own_thread();
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int row_threads = 1 << phase.row_threads_log2;
  const int member = thread & (row_threads - 1);        // of the threads that share a row
  const int stream = thread >> phase.row_threads_log2;  // which of the rows side by side
  const int row_warps = row_threads >> 5;
  const int step_outputs_log2 = phase.step_outputs_log2();
  const int step_outputs = phase.step_outputs();
  const int stage_outputs = phase.stage_outputs();
  const auto outputs = static_cast<int>(job.outputs);
  const auto cols = static_cast<std::uint32_t>(job.cols);
  const bool paired = job.up_rows != nullptr;
  const bool normed = job.norm_weight != nullptr;
  const float share_of_column = near_inverse(static_cast<float>(cols));
  const SentNumbers sent_residuals(room, phase.residual_from);
  const SentNumbers sent_gates(room, phase.gate_from);
  float* const sent = phase.sent;
  // [steps of a pass, streams, row_warps]: a warp's is at its own number.
  float* const warp_sums = room.sums();
  std::int32_t* const first_outputs = room.step_outputs();  // of each step
  // [threads], of the outputs that a thread finishes first in a pass: asked for as soon as it is
  // known which that is.
  float* const residuals = room.residuals();
  LaneSums<Own::kQuantized> sums(room, warp, lane);
  const int cta = static_cast<int>(blockIdx.x) - phase.first_cta;
  const int begin_stage = phase.shares.begin(cta);
  const int stage_steps = uniform(phase.stage_steps);
  const int stage_steps_log2 = 31 - __clz(stage_steps);  // a power of two
  const int pass_stages = uniform(program_pass_steps(Own::kQuantized) >> stage_steps_log2);
  // Stages whose outputs follow those of the stage before. Where some are drawn the last of them
  // may be the last of all; nobody knows before it is there.
  const int own_stages = phase.shares.count(cta);
  const bool drawn = phase.shares.some_are_drawn();
  const int plain_stages = uniform(drawn ? max(own_stages - 1, 0) : own_stages);
  const int known_stages = uniform(drawn || own_stages == 0 ? -1 : own_stages);  // -1: unknown

  // The thread's row in a stage.
  const bool in_up = paired && stream >= step_outputs;
  const int row_at = (in_up ? stage_outputs + stream - step_outputs : stream) * row_bytes;
  // Its pieces of a row. A thread without a piece of its own takes the row's last one, times zeros:
  // no branches.
  const int row_pieces = static_cast<int>((cols + Own::kPieceCols - 1) / Own::kPieceCols);
  constexpr int kHalf = Own::kPieces / 2;
  int index[Own::kPieces];
#pragma unroll
  for (int p = 0; p < Own::kPieces; ++p) index[p] = min(member + p * row_threads, row_pieces - 1);
  const int step_bytes = step_outputs * row_bytes;

  const int stages = room.p.stages;
  Place next = at;
  next.next(stages);
  std::uint32_t first_there = room.stage_there(0);
  const auto there_of = [&](const Place& place) {
    return first_there + 2 * Room::kBarrierBytes * place.index;
  };
  const auto wait = [&] { wait_barrier_together(there_of(at), at.parity); };
  bool there = false;  // the stage at `at`, as far as is known
  const auto look = [&] { there = has_ended(there_of(next), next.parity); };
  const auto release = [&] {
    arrive_having_read(there_of(at) + Room::kBarrierBytes);  // stage_read
    at = next;
    next.next(stages);
  };

  // Outputs of the first `plain_steps` steps of a pass follow each other from `first_output` on; of
  // the others those are in first_outputs that each begins with.
  int plain_steps = 0;
  int first_output = 0;
  const auto begin_pass = [&](int stage) {
    plain_steps = min(max(plain_stages - stage, 0), pass_stages) * stage_steps;
    first_output = (begin_stage + stage) * stage_outputs;
    if (job.residual != nullptr && thread < plain_steps * step_outputs &&
        first_output + thread < outputs) {
      copy_number(residuals + thread, job.residual + first_output + thread);
    }
  };
  /// Takes note of a stage that says whose outputs it holds, and whether it is the last. `done`
  /// steps of the pass are before it.
  const auto note_outputs = [&](int done) {
    const int marked = room.output(at.index);
    const bool last = marked < 0;
    const int first = last ? ~marked : marked;
    if (thread < stage_steps) {
      first_outputs[done + thread] = first + thread * step_outputs;
    }
    const int mine = thread - done * step_outputs;
    const int here = min(stage_outputs, outputs - first);
    if (job.residual != nullptr && mine >= 0 && mine < here) {
      copy_number(residuals + thread, job.residual + first + mine);
    }
    return last;
  };
  const auto finish_pass = [&](int all) {
    copied_numbers();
    join();
    // Of what is not normed the squares mean nothing, but they need not be asked about first.
    const auto* const squares = reinterpret_cast<const float4*>(room.squares());
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps / 4; ++w) {
      const float4 four = squares[w];
      total += (four.x + four.y) + (four.z + four.w);
    }
    const float factor = normed ? rsqrtf(fmaf(total, share_of_column, job.epsilon)) : 1.0f;
    const auto product = [&](int step, int row) {
      const float* const of = warp_sums + step * kWarps + row * row_warps;
      float sum[kWarps];
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum[w] = w < row_warps ? of[w] : 0;
#pragma unroll
      for (int half = kWarps / 2; half > 0; half /= 2) {
#pragma unroll
        for (int w = 0; w < half; ++w) sum[w] += sum[w + half];
      }
      return sum[0] * factor;
    };
    for (int i = thread; i < all * step_outputs; i += kProgramThreads) {
      const int step = i >> step_outputs_log2;
      const int row = i & (step_outputs - 1);
      const int output = step < plain_steps ? first_output + i : first_outputs[step] + row;
      if (output >= outputs) continue;
      float residual = 0;
      if (job.residual != nullptr) {
        const float* const from = job.residual + output;
        residual =
            sent_residuals.settle(from, i == thread ? residuals[thread] : SentNumbers::load(from));
      }
      float gate = 1;
      if (job.gate != nullptr) {
        const float* const from = job.gate + output;
        gate = sent_gates.settle(from, SentNumbers::load(from));
      }
      const float number =
          outcome(job, output, product(step, row),
                  paired ? product(step, row + step_outputs) : 0.0f, gate, residual);
      send(sent + output, number, sent_residuals.pass);
      if (job.out != nullptr) job.out[output] = number;
    }
  };

  begin_pass(0);
  Own own;
  own.clear();
  float squares =
      read_x<kDtype>(job, SentNumbers(room, phase.x_from), member, row_threads, room, own);
  // Here, for then the compiler knows that lanes are together in all that follows.
  first_there = uniform(first_there);

  /// Rows of steps that follow each other, times the thread's pieces [kFirst, kEnd). A whole stage
  /// is released when it is in registers.
  const auto multiply_pieces = [&]<int kFirst, int kEnd, int kRows, bool kWhole>(
                                   PieceRange<kFirst, kEnd>, Rows<kRows, kWhole>,
                                   const std::byte* row, float(&products)[kRows]) {
    typename Own::Stored stored[kRows][kEnd - kFirst];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int p = kFirst; p < kEnd; ++p) {
        stored[r][p - kFirst] = Own::load(row + r * step_bytes, layout, index[p]);
      }
    }
    if constexpr (kWhole) {
      look();
      release();
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum[2] = {0, 0};
#pragma unroll
      for (int p = kFirst; p < kEnd; ++p) {
        if (!kWhole && r == kRows - 1 && p == kEnd - 1) look();
        const float product = own.dot(stored[r][p - kFirst], p);
        sum[p % 2] = p < kFirst + 2 ? product : sum[p % 2] + product;
      }
      products[r] = kEnd - kFirst > 1 ? sum[0] + sum[1] : sum[kFirst % 2];
    }
  };

  // All stages. What happens at each asks but one question: whether there is something else to do,
  // or to wait for. multiply_rows(row) begins with the stage that has been taken; who multiplies a
  // whole one releases it.
  const auto run = [&]<int kRows, bool kWhole>(Rows<kRows, kWhole>, const auto& multiply_rows) {
    const int group_stages = sums.kSteps >> stage_steps_log2;
    int stage = 0;
    int pass_begin = 0;
    int pass_end = pass_stages;
    int group_begin = 0;
    int group_end = group_stages;
    int easy_end = min(plain_stages, group_end);
    bool last = false;
    while (true) {
      last = __any_sync(~0u, last || stage == known_stages);
      if (last || stage == group_end) {
        sums.add_up(warp_sums + (group_begin - pass_begin) * stage_steps * kWarps,
                    (stage - group_begin) * stage_steps);
        if (group_begin == 0 && normed) {
          squares = warp_sum(squares);
          if (lane == 0) room.squares()[warp] = squares;
        }
        if (last || stage == pass_end) {
          finish_pass((stage - pass_begin) * stage_steps);
          if (last) break;
          join();
          begin_pass(stage);
          pass_begin = stage;
          pass_end = stage + pass_stages;
        }
        group_begin = stage;
        group_end = stage + group_stages;
        easy_end = min(plain_stages, group_end);
      }
      wait();
      if (stage >= plain_stages) {
        last = __any_sync(~0u, note_outputs((stage - pass_begin) * stage_steps));
      }
      do {
        const std::byte* row = room.stage(at.index) + row_at;
        if constexpr (kWhole) {
          multiply_rows(row);
        } else {
          int left = stage_steps;
          bool more;
          do {
            left -= kRows;
            more = __any_sync(~0u, left > 0);
            multiply_rows(row);
            row += kRows * step_bytes;
          } while (more);
          release();
        }
        ++stage;
      } while (__all_sync(~0u, there && stage < easy_end));
    }
  };
  constexpr PieceRange<0, Own::kPieces> kAll;
  constexpr PieceRange<0, kHalf> kFirstHalf;
  constexpr PieceRange<kHalf, Own::kPieces> kSecondHalf;
  const auto run_pieces = [&]<int kRows, bool kWhole>(Rows<kRows, kWhole> rows,
                                                      const auto& pieces) {
    run(rows, [&](const std::byte* row) {
      float products[kRows];
      multiply_pieces(pieces, rows, row, products);
      sums.put(products);
    });
  };
  if constexpr (Own::kQuantized) {
    if (stage_steps == 1) {
      run_pieces(Rows<1, true>(), kAll);
    } else if (stage_steps == 2) {
      run_pieces(Rows<2, true>(), kAll);
    } else {
      run_pieces(Rows<2, false>(), kFirstHalf);
    }
  } else if (phase.row_parts > 1) {
    constexpr Rows<1, true> kOne;
    run(kOne, [&](const std::byte* row) {
      float first[1];
      float second[1];
      multiply_pieces(kFirstHalf, kOne, row, first);
      if (!__all_sync(~0u, there)) wait();
      multiply_pieces(kSecondHalf, kOne, room.stage(at.index) - phase.part_bytes, second);
      first[0] += second[0];
      sums.put(first);
    });
  } else if (row_pieces > kHalf * row_threads) {
    run_pieces(Rows<1, false>(), kAll);
  } else {
    run_pieces(Rows<1, false>(), kFirstHalf);
  }
  return at;
}

#endif

}  // namespace sedpa::cuda::program
