// What the machine reaches, so that every figure can stand beside its ceiling.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "sedpa/backend/cpu/cpu_ops.h"
#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/core/memory.h"
#include "sedpa/core/thread_pool.h"

namespace sedpa {
namespace {

constexpr std::size_t kReadBytes = std::size_t{256} << 20;  // far larger than a cache
constexpr std::size_t kReadPiece = std::size_t{1} << 20;
constexpr int kReadPasses = 5;
constexpr std::int64_t kRounds = 200000;
constexpr int kRatePasses = 5;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Best of a few passes over one buffer, which the threads share piece by piece.
double read_rate(ThreadPool& pool, const cpu::Kernels& kernels) {
  const Pages pages(kReadBytes);
  // Pages that were never written may all be one and the same zero page.
  pool.for_each(kReadBytes / kReadPiece, [&](std::int64_t piece, int) {
    std::byte* begin = pages.data() + static_cast<std::size_t>(piece) * kReadPiece;
    std::fill_n(begin, kReadPiece, std::byte{1});
  });
  std::atomic<std::uint64_t> total{0};
  double best = 0;
  for (int pass = 0; pass < kReadPasses; ++pass) {
    const auto begin = Clock::now();
    pool.for_each(kReadBytes / kReadPiece, [&](std::int64_t piece, int) {
      total +=
          kernels.read_all(pages.data() + static_cast<std::size_t>(piece) * kReadPiece, kReadPiece);
    });
    best = std::max(best, static_cast<double>(kReadBytes) / seconds_since(begin));
  }
  return best;
}

double rate(ThreadPool& pool, double (*rounds)(std::int64_t)) {
  std::vector<double> done(static_cast<std::size_t>(pool.size()));
  double best = 0;
  for (int pass = 0; pass < kRatePasses; ++pass) {
    const auto begin = Clock::now();
    pool.run([&](int thread) { done[static_cast<std::size_t>(thread)] = rounds(kRounds); });
    const double seconds = seconds_since(begin);
    double operations = 0;
    for (const double each : done) operations += each;
    best = std::max(best, operations / seconds);
  }
  return best;
}

}  // namespace

CpuCeilings measure_cpu_ceilings(int threads) {
  ThreadPool pool(threads);
  const cpu::Kernels& kernels = cpu::kernels(best_isa());
  return {.read_bytes_per_second = read_rate(pool, kernels),
          .int8_ops_per_second = rate(pool, kernels.int8_rounds),
          .bf16_flops_per_second = rate(pool, kernels.bf16_rounds),
          .f32_flops_per_second = rate(pool, kernels.f32_rounds)};
}

}  // namespace sedpa
