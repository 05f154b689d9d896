// CPU attention by itself: FLOP/s of prefill (4 x head size for each visible pair of a query and a
// key) and bytes/s of decode, beside the machine's own ceilings.
//
//   attention_bench --benchmark_filter=prefill --benchmark_min_time=1
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "sedpa/attention/visible_keys.h"
#include "sedpa/backend/cpu/attention.h"
#include "sedpa/core/memory.h"

namespace sedpa {
namespace {

struct Bench {
  AttentionShape shape = {.query_heads = 9, .kv_heads = 3, .head_dim = 64, .scale = 0.125f};
  HeadClass kept = {};
  KvDtype dtype = KvDtype::f16;
  Compute compute = Compute::fast;
  std::int64_t past = 0;
  std::int64_t tokens = 1;
  int threads = 1;
  int layers = 1;
  bool commit = false;
};

void run(benchmark::State& state, const Bench& b) {
  ThreadPool pool(b.threads);
  CpuAttention attention(pool, best_isa(), b.compute);
  OpsPlan plan;
  plan.attention = b.shape;
  plan.max_tokens = b.tokens;
  plan.max_context = b.past + b.tokens;
  attention.reserve(plan);

  const KvGeometry geometry = {.plan = HeadPlan::uniform(b.layers, b.shape.kv_heads, b.kept),
                               .context = b.past + b.tokens,
                               .head_dim = b.shape.head_dim,
                               .dtype = b.dtype};
  // Twos in every half: small numbers in all encodings.
  Pages arena(geometry.arena_bytes(kRetrieval));
  for (std::size_t i = 0; i < arena.size(); i += 2) {
    arena.data()[i] = std::byte(i * 2654435761u >> 13 & 0x7f);
    arena.data()[i + 1] = std::byte{0x2c};
  }
  KvCache cache(geometry, {arena.data(), nullptr});
  cache.restore(b.past);

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const LayerShape shape = LayerShape::plain(b.shape);
  std::vector<float> qkv(b.tokens * b.shape.qkv_cols());
  for (float& x : qkv) x = normal(random);
  std::vector<float> out(b.tokens * b.shape.out_cols());
  const Rows in_rows = {qkv.data(), b.tokens, b.shape.qkv_cols(), b.shape.qkv_cols()};
  const Rows out_rows = {out.data(), b.tokens, b.shape.out_cols(), b.shape.out_cols()};
  const std::vector<std::int32_t> ids(b.tokens);

  for (auto _ : state) {
    attention.begin_step({.tokens = ids, .past = b.past}, cache);
    for (int layer = 0; layer < b.layers; ++layer) {
      attention.attention(in_rows, shape, cache.layer(layer), out_rows);
      if (b.commit) attention.commit(in_rows, shape, cache.layer(layer));
    }
  }
  double pairs = 0;
  for (std::int64_t p = b.past; p < b.past + b.tokens; ++p) {
    pairs += static_cast<double>(visible_keys(b.kept, p, p).count());
  }
  const double flop = 4.0 * b.shape.head_dim * b.shape.query_heads * pairs * b.layers;
  state.counters["FLOP/s"] = benchmark::Counter(flop, benchmark::Counter::kIsIterationInvariantRate,
                                                benchmark::Counter::kIs1000);
  state.counters["bytes/s"] = benchmark::Counter(static_cast<double>(geometry.read_bytes(b.past)),
                                                 benchmark::Counter::kIsIterationInvariantRate,
                                                 benchmark::Counter::kIs1000);
}

void add(const std::string& name, const Bench& b) {
  auto* bench =
      benchmark::RegisterBenchmark(name.c_str(), [b](benchmark::State& state) { run(state, b); });
  if (b.threads > 1) bench->UseRealTime();
}

void add_all() {
  const AttentionShape llama8b = {
      .query_heads = 32, .kv_heads = 8, .head_dim = 128, .scale = 0.08838835f};
  const HeadClass ring = HeadClass::window(64, 0, 256);
  for (const int threads : {1, 2}) {
    const std::string suffix = "/threads:" + std::to_string(threads);
    for (const std::int64_t past : {0, 4096, 8192}) {
      const std::string depth = "/depth:" + std::to_string(past) + suffix;
      add("prefill512" + depth, {.past = past, .tokens = 512, .threads = threads});
      add("prefill512_f32" + depth,
          {.compute = Compute::f32, .past = past, .tokens = 512, .threads = threads});
      add("prefill512_window" + depth,
          {.kept = ring, .past = past, .tokens = 512, .threads = threads});
      add("prefill256_llama8b" + depth,
          {.shape = llama8b, .past = past, .tokens = 256, .threads = threads});
    }
    // Enough layers that no cache holds them.
    for (const KvDtype dtype :
         {KvDtype::f32, KvDtype::f16, KvDtype::bf16, KvDtype::q8, KvDtype::q4}) {
      const std::string what = "_" + std::string(name(dtype)) + suffix;
      add("decode" + what, {.dtype = dtype, .past = 4096, .threads = threads, .layers = 30});
      add("decode_cached" + what, {.dtype = dtype, .past = 768, .threads = threads});
      add("decode_llama8b" + what,
          {.shape = llama8b, .dtype = dtype, .past = 4096, .threads = threads, .layers = 6});
    }
    add("decode_window_f16/depth:4096" + suffix,
        {.kept = ring, .past = 4096, .threads = threads, .layers = 30});
  }
}

}  // namespace
}  // namespace sedpa

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const sedpa::CpuCeilings ceilings = sedpa::measure_cpu_ceilings(1);
  benchmark::AddCustomContext("instruction set", sedpa::name(sedpa::best_isa()));
  benchmark::AddCustomContext("one thread, read bytes/s",
                              std::to_string(ceilings.read_bytes_per_second));
  benchmark::AddCustomContext("one thread, bf16 FLOP/s",
                              std::to_string(ceilings.bf16_flops_per_second));
  benchmark::AddCustomContext("one thread, f32 FLOP/s",
                              std::to_string(ceilings.f32_flops_per_second));
  sedpa::add_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
