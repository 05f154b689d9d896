// Linear operations of the CPU backend by themselves: operations/s of prefill (two for each weight
// and token) and bytes/s of decode, beside the machine's own ceilings.
//
//   linear_bench --benchmark_filter=decode --benchmark_min_time=1
//
// Shapes are SmolLM2-135M's (width 576, qkv 960, gate and up 3072, down 1536 -> 576, vocabulary
// 49152) and one of an 8B model's.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/backend/cpu/linear.h"
#include "sedpa/backend/cpu/weights.h"
#include "sedpa/core/thread_pool.h"

namespace sedpa {
namespace {

struct Shape {
  std::int64_t out = 0;
  std::int64_t in = 0;
};

/// A matrix whose bytes do not matter, as long as no scale is infinite or NaN.
MatrixSource any_matrix(Dtype dtype, Shape shape) {
  return {.dtype = dtype,
          .rows = shape.out,
          .cols = shape.in,
          .read = [=](std::int64_t row, std::int64_t count, std::byte* out) {
            std::minstd_rand random(static_cast<unsigned>(row + 1));
            const auto bytes = static_cast<std::size_t>(count * row_bytes(dtype, shape.in));
            for (std::size_t i = 0; i < bytes; ++i) {
              out[i] = std::byte{static_cast<std::uint8_t>(random() % 32)};
            }
          }};
}

struct Machine {
  explicit Machine(int threads) : pool(threads), runner(pool, cpu::kernels(best_isa())) {}

  Linear make(Dtype dtype, Shape shape) {
    const MatrixSource source = any_matrix(dtype, shape);
    return {.a = cpu::make_weight({&source, 1}, Compute::fast, pool, arena), .b = {}, .bias = {}};
  }
  void reserve(std::int64_t tokens, std::int64_t cols) {
    OpsPlan plan;
    plan.max_tokens = tokens;
    plan.max_cols = cols;
    runner.reserve(plan);
  }

  ThreadPool pool;
  cpu::PageArena arena;
  cpu::LinearRunner runner;
};

std::vector<float> numbers(std::int64_t count) {
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> all(static_cast<std::size_t>(count));
  for (float& x : all) x = uniform(random);
  return all;
}

void prefill(benchmark::State& state, Dtype dtype, Shape shape, std::int64_t tokens, int threads) {
  Machine machine(threads);
  const Linear linear = machine.make(dtype, shape);
  machine.reserve(tokens, shape.in);
  std::vector<float> x = numbers(tokens * shape.in);
  std::vector<float> out(static_cast<std::size_t>(tokens * shape.out));
  for (auto _ : state) {
    machine.runner.run(linear, {x.data(), tokens, shape.in, shape.in}, {},
                       {out.data(), tokens, shape.out, shape.out});
  }
  const double operations = 2.0 * static_cast<double>(shape.in * shape.out * tokens);
  state.counters["op/s"] =
      benchmark::Counter(operations, benchmark::Counter::kIsIterationInvariantRate);
}

/// All matrices of SmolLM2-135M in the order of a decode step, as many bytes as the model has.
void decode(benchmark::State& state, Dtype dtype, int threads) {
  constexpr int kLayers = 30;
  constexpr Shape kShapes[] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}};
  Machine machine(threads);
  std::vector<Linear> all;
  for (int layer = 0; layer < kLayers; ++layer) {
    for (const Shape& shape : kShapes) all.push_back(machine.make(dtype, shape));
  }
  // GGUF files keep the vocabulary at 8 bits at least.
  all.push_back(machine.make(dtype == Dtype::q4_1 ? Dtype::q8_0 : dtype, {49152, 576}));
  machine.reserve(1, 1536);
  std::vector<float> x = numbers(1536);
  std::vector<float> out(49152);
  std::size_t bytes = 0;
  for (const Linear& linear : all) bytes += linear.bytes();
  for (auto _ : state) {
    for (const Linear& linear : all) {
      machine.runner.run(linear, {x.data(), 1, linear.in_features(), 1536}, {},
                         {out.data(), 1, linear.out_features(), 49152});
    }
  }
  state.counters["B/s"] =
      benchmark::Counter(static_cast<double>(bytes), benchmark::Counter::kIsIterationInvariantRate);
}

void pack(benchmark::State& state, cpu::InputForm form, std::int64_t tokens, std::int64_t cols) {
  const cpu::Kernels& kernels = cpu::kernels(best_isa());
  std::vector<float> x = numbers(tokens * cols);
  std::vector<std::byte> tile(static_cast<std::size_t>(tokens * cols) * 4);
  for (auto _ : state) {
    kernels.pack[static_cast<int>(form)](
        {.x = x.data(), .stride = cols, .tokens = tokens, .cols = cols, .tile = tile.data()});
    benchmark::ClobberMemory();
  }
  state.counters["numbers/s"] = benchmark::Counter(static_cast<double>(tokens * cols),
                                                   benchmark::Counter::kIsIterationInvariantRate);
}

void fork_join(benchmark::State& state, int threads) {
  ThreadPool pool(threads);
  for (auto _ : state) pool.run([](int thread) { benchmark::DoNotOptimize(thread); });
}

void add_benchmarks() {
  constexpr Dtype kTypes[] = {Dtype::q4_1, Dtype::q8_0, Dtype::f16,  Dtype::bf16,
                              Dtype::f32,  Dtype::q4_k, Dtype::q6_k, Dtype::iq4_nl};
  constexpr Shape kShapes[] = {{960, 576}, {3072, 576}, {576, 1536}, {4096, 4096}};
  for (const int threads : {1, 2}) {
    for (const Dtype dtype : kTypes) {
      for (const Shape& shape : kShapes) {
        if (shape.in % block_size(dtype) != 0) continue;
        const auto text = fmt::format("prefill/{}/{}x{}/tokens:512/threads:{}", name(dtype),
                                      shape.out, shape.in, threads);
        benchmark::RegisterBenchmark(text.c_str(), prefill, dtype, shape, 512, threads)
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
    for (const Dtype dtype : {Dtype::q4_1, Dtype::q8_0, Dtype::f16, Dtype::f32}) {
      benchmark::RegisterBenchmark(
          fmt::format("decode/{}/threads:{}", name(dtype), threads).c_str(), decode, dtype, threads)
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
    benchmark::RegisterBenchmark(fmt::format("fork_join/threads:{}", threads).c_str(), fork_join,
                                 threads)
        ->UseRealTime();
  }
  for (const std::int64_t tokens : {1, 12}) {
    benchmark::RegisterBenchmark(fmt::format("pack/codes/{}", tokens).c_str(), pack,
                                 cpu::InputForm::codes, tokens, 576);
    benchmark::RegisterBenchmark(fmt::format("pack/f32/{}", tokens).c_str(), pack,
                                 cpu::InputForm::f32, tokens, 576);
    benchmark::RegisterBenchmark(fmt::format("pack/bf16/{}", tokens).c_str(), pack,
                                 cpu::InputForm::bf16, tokens, 576);
  }
}

}  // namespace
}  // namespace sedpa

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const int threads : {1, 2}) {
    const sedpa::CpuCeilings ceilings = sedpa::measure_cpu_ceilings(threads);
    benchmark::AddCustomContext(
        fmt::format("ceilings with {} threads", threads),
        fmt::format("read {:.1f} GB/s, int8 {:.0f} Gop/s, bf16 {:.0f} GFLOP/s, f32 {:.0f} GFLOP/s",
                    ceilings.read_bytes_per_second / 1e9, ceilings.int8_ops_per_second / 1e9,
                    ceilings.bf16_flops_per_second / 1e9, ceilings.f32_flops_per_second / 1e9));
  }
  sedpa::add_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
