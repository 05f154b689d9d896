// Times attention on a GPU by itself: one token after long contexts, and chunks of a prompt, with
// all, half and none of the KV heads in full. Prints a JSON line a case; where rates stand against
// the machine's is the reader's division (`sedpa bench` prints the ceilings).
//
//   cuda_attention_bench [decode|prefill|all] [f16|bf16|q8|q4|f32]
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "sedpa/attention/kv_cache.h"
#include "sedpa/attention/visible_keys.h"
#include "sedpa/backend/cuda/attention.h"
#include "sedpa/backend/cuda/device.h"
#include "sedpa/core/dtype.h"

namespace sedpa::cuda {
namespace {

struct Model {
  std::string_view name;
  std::int32_t query_heads;
  std::int32_t kv_heads;
  std::int32_t head_dim;
};
constexpr Model kModels[] = {{"llama3-8b", 32, 8, 128}, {"llama2-7b", 32, 32, 128}};

const HeadClass kStreamingClass = HeadClass::window(64, 0, 256);

std::vector<float> normal(std::mt19937& random, std::int64_t count, float deviation) {
  std::normal_distribution<float> draw(0, deviation);
  std::vector<float> numbers(static_cast<std::size_t>(count));
  std::generate(numbers.begin(), numbers.end(), [&] { return draw(random); });
  return numbers;
}

/// Stored rows of random numbers, as many as fill about a MiB.
std::vector<std::byte> random_rows(KvDtype dtype, std::int64_t dim) {
  std::mt19937 random(1);
  const std::int64_t row_bytes = kv_row_bytes(dtype, dim);
  const std::int64_t rows = (1 << 20) / row_bytes;
  std::vector<std::byte> bytes(static_cast<std::size_t>(rows * row_bytes));
  const std::vector<float> numbers = normal(random, rows * dim, 1.0f);
  for (std::int64_t row = 0; row < rows; ++row) {
    std::byte* const to = bytes.data() + row * row_bytes;
    const auto put = [&](std::int64_t at, std::uint16_t bits) {
      std::memcpy(to + at, &bits, sizeof bits);
    };
    if (dtype == KvDtype::q8 || dtype == KvDtype::q4) {
      const std::int64_t blocks = (dim + kKvBlock - 1) / kKvBlock;
      const float scale = dtype == KvDtype::q8 ? 0.02f : 0.3f;
      for (std::int64_t i = 0; i < blocks; ++i) put(2 * i, f32_to_f16(scale));
      for (std::int64_t at = 2 * blocks; at < row_bytes; ++at) to[at] = std::byte(random());
      continue;
    }
    for (std::int64_t d = 0; d < dim; ++d) {
      const float x = numbers[static_cast<std::size_t>(row * dim + d)];
      if (dtype == KvDtype::f32)
        std::memcpy(to + 4 * d, &x, sizeof x);
      else
        put(2 * d, dtype == KvDtype::f16 ? f32_to_f16(x) : f32_to_bf16(x));
    }
  }
  return bytes;
}

template <class T>
DeviceMemory on_device(const std::vector<T>& values) {
  DeviceMemory memory(std::max<std::size_t>(values.size() * sizeof(T), 4));
  check(
      cudaMemcpy(memory.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return memory;
}

/// Fills memory with copies of bytes, the last cut where it ends.
void fill(DeviceMemory& memory, const std::vector<std::byte>& bytes) {
  for (std::size_t at = 0; at < memory.size(); at += bytes.size()) {
    check(cudaMemcpy(memory.data() + at, bytes.data(), std::min(bytes.size(), memory.size() - at),
                     cudaMemcpyHostToDevice));
  }
}

/// A cache full of random numbers, and the device's state of one step on it.
class Bench {
 public:
  Bench(const Model& model, KvDtype dtype, std::int32_t retrieval, std::int64_t layers,
        std::int64_t past, std::int64_t tokens)
      : model_(model), tokens_(tokens) {
    check(cudaStreamCreate(&stream_));
    HeadPlan plan = HeadPlan::uniform(static_cast<std::int32_t>(layers), model.kv_heads, {});
    plan.classes[kStreaming] = kStreamingClass;
    for (LayerHeads& heads : plan.layers) heads.retrieval = retrieval;
    geometry_ = {
        .plan = plan, .context = past + tokens, .head_dim = model.head_dim, .dtype = dtype};

    const std::vector<std::byte> rows = random_rows(dtype, model.head_dim);
    std::array<std::byte*, kHeadClasses> addresses{};
    for (int i = 0; i < kHeadClasses; ++i) {
      arenas_[i] = DeviceMemory(std::max<std::size_t>(geometry_.arena_bytes(i), 16));
      addresses[i] = arenas_[i].data();
      fill(arenas_[i], rows);
    }
    cache_ = std::make_unique<KvCache>(geometry_, addresses);
    cache_->restore(past);

    const AttentionShape shape = {.query_heads = model.query_heads,
                                  .kv_heads = model.kv_heads,
                                  .head_dim = model.head_dim,
                                  .scale = 1 / std::sqrt(static_cast<float>(model.head_dim))};
    qkv_ = DeviceMemory(static_cast<std::size_t>(tokens * shape.qkv_cols()) * sizeof(float));
    fill(qkv_, random_rows(KvDtype::f32, shape.qkv_cols()));
    out_ = DeviceMemory(static_cast<std::size_t>(tokens * shape.out_cols()) * sizeof(float));
    shape_ = LayerShape::plain(shape);
    job_.shape = &shape_;
    job_.qkv = {reinterpret_cast<float*>(qkv_.data()), tokens, shape.qkv_cols(), shape.qkv_cols()};
    job_.out = {reinterpret_cast<float*>(out_.data()), tokens, shape.out_cols(), shape.out_cols()};
    job_.rotate = job_.attend = job_.commit = true;

    numbers_ = on_device(std::vector<std::int32_t>{static_cast<std::int32_t>(past),
                                                   static_cast<std::int32_t>(tokens)});
    const std::int64_t half = model.head_dim / 2;
    std::vector<float> cosines(static_cast<std::size_t>(tokens * half));
    std::vector<float> sines(cosines.size());
    for (std::size_t i = 0; i < cosines.size(); ++i) {
      cosines[i] = std::cos(static_cast<float>(i));
      sines[i] = std::sin(static_cast<float>(i));
    }
    cosines_ = on_device(cosines);
    sines_ = on_device(sines);
    state_.past = reinterpret_cast<const std::int32_t*>(numbers_.data());
    state_.tokens = state_.past + 1;
    state_.cosines = reinterpret_cast<const float*>(cosines_.data());
    state_.sines = reinterpret_cast<const float*>(sines_.data());
    state_.rope_dim = model.head_dim;
    const auto held = cache_->positions(kStreaming);
    positions_ = on_device(std::vector<std::int32_t>(held.begin(), held.end()));
    std::vector<std::int32_t> slots(static_cast<std::size_t>(tokens), -1);
    for (const SlotWrite& write : cache_->plan_commit(kStreaming, tokens)) {
      slots[static_cast<std::size_t>(write.row)] = write.slot;
    }
    slots_ = on_device(slots);
    state_.positions[kStreaming] = reinterpret_cast<const std::int32_t*>(positions_.data());
    state_.slots[kStreaming] = reinterpret_cast<const std::int32_t*>(slots_.data());

    runner_ = std::make_unique<AttentionRunner>(device_traits(0), stream_);
    runner_->reserve({.attention = shape,
                      .rope = {},
                      .max_tokens = tokens,
                      .max_context = past + tokens,
                      .heads = &geometry_.plan});
    runner_->begin_step(state_, *cache_, past, tokens);
  }
  ~Bench() { cudaStreamDestroy(stream_); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  /// Seconds of one layer: the median of several runs through all layers.
  double seconds() {
    const auto all_layers = [&] {
      for (std::int64_t i = 0; i < cache_->layers(); ++i) {
        job_.cache = &cache_->layer(i);
        runner_->run(job_);
      }
    };
    all_layers();
    check(cudaStreamSynchronize(stream_));
    cudaGraphExec_t graph = nullptr;
    if (tokens_ == 1) {
      cudaGraph_t captured = nullptr;
      check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
      for (int i = 0; i < kPasses; ++i) all_layers();
      check(cudaStreamEndCapture(stream_, &captured));
      check(cudaGraphInstantiate(&graph, captured, 0));
      check(cudaGraphDestroy(captured));
    }
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    std::vector<double> times;
    for (int repeat = 0; repeat < 12; ++repeat) {
      check(cudaEventRecord(begin, stream_));
      if (graph != nullptr) {
        check(cudaGraphLaunch(graph, stream_));
      } else {
        all_layers();
      }
      check(cudaEventRecord(end, stream_));
      check(cudaEventSynchronize(end));
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, begin, end));
      if (repeat >= 3) times.push_back(milliseconds * 1e-3);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    if (graph != nullptr) cudaGraphExecDestroy(graph);
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2] /
           static_cast<double>(cache_->layers() * (graph != nullptr ? kPasses : 1));
  }

 private:
  static constexpr int kPasses = 4;  // in a graph: its start counts for less
  Model model_;
  std::int64_t tokens_;
  cudaStream_t stream_ = nullptr;
  KvGeometry geometry_;
  LayerShape shape_;
  DeviceMemory arenas_[kHeadClasses];
  DeviceMemory qkv_, out_, numbers_, cosines_, sines_, positions_, slots_;
  std::unique_ptr<KvCache> cache_;
  StepState state_;
  AttentionJob job_;
  std::unique_ptr<AttentionRunner> runner_;
};

/// Keys that query rows [past, past + tokens) see in one head of a class.
double visible_pairs(const HeadClass& kept, std::int64_t past, std::int64_t tokens) {
  double pairs = 0;
  for (std::int64_t p = past; p < past + tokens; ++p) {
    pairs += static_cast<double>(visible_keys(kept, p, p).count());
  }
  return pairs;
}

void print(const Model& model, KvDtype dtype, std::int32_t retrieval, std::int64_t past,
           std::int64_t tokens, double seconds) {
  const std::int32_t heads[kHeadClasses] = {retrieval, model.kv_heads - retrieval};
  const HeadClass classes[kHeadClasses] = {{}, kStreamingClass};
  double bytes = 0;
  double flops = 0;
  for (int i = 0; i < kHeadClasses; ++i) {
    bytes += 2.0 * heads[i] * static_cast<double>(stored_keys(classes[i], past).count()) *
             static_cast<double>(kv_row_bytes(dtype, model.head_dim));
    flops += 4.0 * heads[i] * (model.query_heads / model.kv_heads) * model.head_dim *
             visible_pairs(classes[i], past, tokens);
  }
  fmt::print(
      "{{\"bench\": \"cuda_attention\", \"shape\": \"{}\", \"kv_dtype\": \"{}\", "
      "\"retrieval_heads\": {}, \"kv_heads\": {}, \"depth\": {}, \"tokens\": {}, "
      "\"seconds\": {:.4e}, \"kv_bytes\": {:.0f}, \"gigabytes_per_second\": {:.1f}, "
      "\"flops\": {:.4e}, \"teraflops_per_second\": {:.1f}}}\n",
      model.name, name(dtype), retrieval, model.kv_heads, past, tokens, seconds, bytes,
      bytes / seconds * 1e-9, flops, flops / seconds * 1e-12);
  std::fflush(stdout);
}

void run(std::string_view what, KvDtype dtype) {
  for (const Model& model : kModels) {
    const std::int32_t plans[] = {model.kv_heads, model.kv_heads / 2, 0};
    if (what != "prefill") {
      for (const std::int64_t past : {8192, 32768, 100000, 400000}) {
        for (const std::int32_t retrieval : plans) {
          if (past > 100000 && model.kv_heads > 8) continue;
          // Enough layers that no cache holds them.
          const std::int64_t bytes =
              2 * kv_row_bytes(dtype, model.head_dim) *
              (retrieval * past + (model.kv_heads - retrieval) * std::int64_t{320});
          const std::int64_t layers =
              std::clamp<std::int64_t>((std::int64_t{1} << 29) / bytes, 2, 64);
          Bench bench(model, dtype, retrieval, layers, past, 1);
          print(model, dtype, retrieval, past, 1, bench.seconds());
        }
      }
    }
    if (what != "decode") {
      const auto chunk = [&](std::int64_t past, std::int64_t tokens) {
        for (const std::int32_t retrieval : plans) {
          Bench bench(model, dtype, retrieval, 1, past, tokens);
          print(model, dtype, retrieval, past, tokens, bench.seconds());
        }
      };
      for (const std::int64_t tokens : {2048, 8192}) {
        for (const std::int64_t past : {0, 32768, 131072}) chunk(past, tokens);
      }
      chunk(0, 65536);  // as papers time a kernel: a whole prompt at once
    }
  }
}

}  // namespace
}  // namespace sedpa::cuda

int main(int argc, char** argv) {
  try {
    const std::string what = argc > 1 ? argv[1] : "all";
    const std::optional<sedpa::KvDtype> dtype = sedpa::parse_kv_dtype(argc > 2 ? argv[2] : "f16");
    if (!dtype || (what != "all" && what != "decode" && what != "prefill")) {
      fmt::print(stderr, "usage: cuda_attention_bench [decode|prefill|all] [f16|bf16|q8|q4|f32]\n");
      return 2;
    }
    sedpa::cuda::run(what, *dtype);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
