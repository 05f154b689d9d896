// Times the linears of Llama-3-8B and Llama-2-7B on a GPU, one JSON object a line: one row (decode)
// through weights that do not fit the cache, in a captured graph as decoding replays them, and
// products of many rows. No model needed: weights are random blocks.
//   cuda_linear_bench [--device N] [--gemm] [--gemv] [DTYPE ...]
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "sedpa/backend/cuda/device.h"
#include "sedpa/backend/cuda/linear.h"
#include "sedpa/core/dtype.h"

namespace sedpa::cuda {
namespace {

struct Shape {
  const char* model;
  const char* name;
  std::int64_t outputs;
  std::int64_t cols;
  bool norm;
  bool swiglu;
  bool residual;
};

constexpr Shape kShapes[] = {
    {"llama3-8b", "qkv", 6144, 4096, true, false, false},
    {"llama3-8b", "output", 4096, 4096, false, false, true},
    {"llama3-8b", "gate_up", 28672, 4096, true, true, false},
    {"llama3-8b", "down", 4096, 14336, false, false, true},
    {"llama3-8b", "logits", 128256, 4096, true, false, false},
    {"llama2-7b", "qkv", 12288, 4096, true, false, false},
    {"llama2-7b", "output", 4096, 4096, false, false, true},
    {"llama2-7b", "gate_up", 22016, 4096, true, true, false},
    {"llama2-7b", "down", 4096, 11008, false, false, true},
    {"llama2-7b", "logits", 32000, 4096, true, false, false},
};
constexpr std::int64_t kMostRows = 8192;
constexpr std::int64_t kMostCols = 14336;
constexpr std::int64_t kRank = 1024;                        // of factors
constexpr std::size_t kColdBytes = std::size_t{256} << 20;  // weights in turn, beyond any cache
constexpr int kLaunches = 24;                               // of a graph

/// Random stored blocks, read round and round.
class RandomBlocks {
 public:
  explicit RandomBlocks(Dtype dtype)
      : dtype_(dtype), bytes_(static_cast<std::size_t>(kBlocks * block_bytes(dtype))) {
    std::mt19937_64 random(1);
    std::uniform_real_distribution<float> number(-0.05f, 0.05f);
    for (std::byte& b : bytes_) b = static_cast<std::byte>(random());
    for (std::int64_t i = 0; i < kBlocks; ++i) {
      std::byte* block = bytes_.data() + i * block_bytes(dtype);
      const float value = number(random);
      const std::uint16_t half = f32_to_f16(value);
      const std::uint16_t bfloat = f32_to_bf16(value);
      if (dtype == Dtype::f32) {
        std::memcpy(block, &value, sizeof value);
      } else if (dtype == Dtype::bf16) {
        std::memcpy(block, &bfloat, sizeof bfloat);
      } else {
        std::memcpy(block + (dtype == Dtype::q6_k ? 208 : 0), &half, sizeof half);
        if (dtype == Dtype::q4_1 || dtype == Dtype::q5_1 || dtype == Dtype::q4_k ||
            dtype == Dtype::q5_k) {
          std::memcpy(block + 2, &half, sizeof half);
        }
      }
    }
  }

  [[nodiscard]] MatrixSource source(std::int64_t rows, std::int64_t cols) const {
    const std::int64_t row = row_bytes(dtype_, cols);
    return {dtype_, rows, cols,
            [this, row](std::int64_t first, std::int64_t count, std::byte* out) {
              auto at = static_cast<std::size_t>(first * row) % bytes_.size();
              for (auto left = static_cast<std::size_t>(count * row); left > 0; at = 0) {
                const std::size_t some = std::min(left, bytes_.size() - at);
                std::memcpy(out, bytes_.data() + at, some);
                out += some;
                left -= some;
              }
            }};
  }

 private:
  static constexpr std::int64_t kBlocks = (1 << 18) + 1;
  Dtype dtype_;
  std::vector<std::byte> bytes_;
};

/// The same matrix at another address.
Weight copy_of(const Weight& weight) {
  const DeviceMemory memory(weight.bytes);
  check(
      cudaMemcpy(memory.data(), weight.bands.front().data, weight.bytes, cudaMemcpyDeviceToDevice));
  Weight copy = weight;
  copy.storage = memory.storage();
  for (WeightBand& band : copy.bands) {
    band.data = memory.data() + (band.data - weight.bands.front().data);
  }
  return copy;
}

class Bench {
 public:
  explicit Bench(int index)
      : device_(device_traits(index)), stream_(make_stream()), linear_(device_, stream_) {
    OpsPlan plan;
    plan.max_tokens = kMostRows;
    plan.max_cols = kMostCols;
    plan.max_rank = kRank;
    linear_.reserve(plan);
    const auto rows = static_cast<std::size_t>(kMostRows);
    x_ = random_floats(rows * kMostCols);
    norm_ = random_floats(kMostCols);
    residual_ = random_floats(rows * 4096);
    act_ = random_floats(rows * kMostCols);
    out_ = random_floats(rows * 28672);
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
  }

  void gemv(Dtype dtype, const RandomBlocks& blocks) {
    for (const Shape& shape : kShapes) {
      const std::vector<Linear> weights = copies(shape, blocks, kLaunches);
      const double seconds = time_graph([&] {
        for (int i = 0; i < kLaunches; ++i) {
          linear_.run(job(shape, weights[static_cast<std::size_t>(i) % weights.size()], 1));
        }
      });
      report(shape.model, shape.name, dtype, 1, weights.front().a.bytes, shape,
             seconds / kLaunches);
    }
    for (const char* model : {"llama3-8b", "llama2-7b"}) layers(model, dtype, blocks);
  }

  void gemm(Dtype dtype, const RandomBlocks& blocks) {
    for (const Shape& shape : kShapes) {
      if (std::string_view(shape.name) == "logits") continue;
      const std::vector<Linear> weights = copies(shape, blocks, 1);
      for (const std::int64_t rows : {std::int64_t{2048}, kMostRows}) {
        const double seconds = time_eager([&] { linear_.run(job(shape, weights.front(), rows)); });
        report(shape.model, shape.name, dtype, rows, weights.front().a.bytes, shape, seconds);
      }
    }
    const std::vector<Linear> gate_up = copies(kShapes[2], blocks, 1);
    const std::vector<Linear> down = copies(kShapes[3], blocks, 1);
    for (const std::int64_t rows : {std::int64_t{2048}, kMostRows}) {
      const Rows residual = view(residual_, rows, 4096);
      const double seconds = time_eager([&] {
        linear_.run(MlpJob{.gate_up = &gate_up.front(),
                           .down = &down.front(),
                           .x = view(x_, rows, 4096),
                           .norm = {floats(norm_), 1e-5f},
                           .act = view(act_, rows, kMostCols),
                           .residual = residual,
                           .out = residual});
      });
      Shape both = kShapes[2];
      both.outputs += kMostCols;  // the second product has as many products as half the first
      report("llama3-8b", "mlp", dtype, rows, gate_up.front().a.bytes + down.front().a.bytes, both,
             seconds);
    }
    projections(dtype, blocks);
  }

  /// Llama-2-7B's query, key, value and output projections, whole and as factors, as prompts go
  /// through them. Operations are those of whole ones in both.
  void projections(Dtype dtype, const RandomBlocks& blocks) {
    constexpr std::int64_t kWidth = 4096;
    const auto weight = [&](std::int64_t outputs, std::int64_t cols) {
      const MatrixSource source = blocks.source(outputs, cols);
      return make_weight({&source, 1}, stream_);
    };
    Linear qkv;
    Linear whole;
    Linear factors;
    qkv.a = weight(3 * kWidth, kWidth);
    whole.a = weight(kWidth, kWidth);
    factors.a = weight(kWidth, kRank);
    factors.b = weight(kRank, kWidth);
    const Norm norm{floats(norm_), 1e-5f};
    const Shape all{"llama2-7b", "projections", 4 * kWidth, kWidth, true, false, true};
    for (const std::int64_t rows : {std::int64_t{2048}, kMostRows}) {
      const Rows x = view(x_, rows, kWidth);
      const Rows parts = view(out_, rows, 3 * kWidth);
      const Rows residual = view(residual_, rows, kWidth);
      const Rows out = view(act_, rows, kWidth);
      const auto output = [&](const Linear& linear) {
        linear_.run(
            LinearJob{.linear = &linear, .x = x, .norm = {}, .residual = residual, .out = out});
      };
      const double seconds = time_eager([&] {
        linear_.run(LinearJob{.linear = &qkv, .x = x, .norm = norm, .residual = {}, .out = parts});
        output(whole);
      });
      report(all.model, all.name, dtype, rows, qkv.a.bytes + whole.a.bytes, all, seconds);
      const double factored = time_eager([&] {
        std::vector<LinearJob> jobs;
        for (const std::int64_t i : {0, 1, 2}) {
          jobs.push_back({.linear = &factors,
                          .x = x,
                          .norm = norm,
                          .residual = {},
                          .out = parts.columns(i * kWidth, kWidth)});
        }
        linear_.run(jobs);
        output(factors);
      });
      report(all.model, "projections_as_factors", dtype, rows,
             4 * (factors.a.bytes + factors.b->bytes), all, factored);
    }
  }

 private:
  static cudaStream_t make_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
  }
  static float* floats(const DeviceMemory& memory) {
    return reinterpret_cast<float*>(memory.data());
  }
  static Rows view(const DeviceMemory& memory, std::int64_t rows, std::int64_t cols) {
    return {floats(memory), rows, cols, cols};
  }
  static DeviceMemory random_floats(std::size_t count) {
    std::mt19937 random(2);
    std::normal_distribution<float> number;
    std::vector<float> some(1 << 16);
    for (float& f : some) f = number(random);
    DeviceMemory memory(count * 4);
    for (std::size_t at = 0; at < count; at += some.size()) {
      check(cudaMemcpy(floats(memory) + at, some.data(), std::min(some.size(), count - at) * 4,
                       cudaMemcpyHostToDevice));
    }
    return memory;
  }

  /// Enough of the same to exceed the cache, at most `most`.
  std::vector<Linear> copies(const Shape& shape, const RandomBlocks& blocks, int most) const {
    const MatrixSource source = blocks.source(shape.outputs, shape.cols);
    std::vector<Linear> all(1);
    all.front().a = make_weight({&source, 1}, stream_);
    const std::size_t wanted = kColdBytes / all.front().a.bytes + 1;
    while (all.size() < std::min(wanted, static_cast<std::size_t>(most))) {
      Linear another;
      another.a = copy_of(all.front().a);
      all.push_back(std::move(another));
    }
    return all;
  }

  LinearJob job(const Shape& shape, const Linear& linear, std::int64_t rows) const {
    const std::int64_t cols = shape.swiglu ? shape.outputs / 2 : shape.outputs;
    LinearJob made;
    made.linear = &linear;
    made.x = view(shape.cols > 4096 ? act_ : x_, rows, shape.cols);
    if (shape.norm) made.norm = {floats(norm_), 1e-5f};
    made.swiglu = shape.swiglu;
    if (shape.residual) made.residual = view(residual_, rows, cols);
    // What is added to itself again and again would overflow, so results go elsewhere.
    made.out = view(out_, rows, cols);
    return made;
  }

  /// The four linears of a layer one after the other, as a decoding step has them.
  void layers(const char* model, Dtype dtype, const RandomBlocks& blocks) {
    constexpr std::size_t kLayers = 8;
    std::vector<std::vector<Linear>> weights;
    std::vector<Shape> shapes;
    std::size_t bytes = 0;
    for (const Shape& shape : kShapes) {
      if (std::string_view(shape.model) != model || std::string_view(shape.name) == "logits") {
        continue;
      }
      shapes.push_back(shape);
      weights.push_back(copies(shape, blocks, kLayers));
      bytes += weights.back().front().a.bytes;
    }
    const double seconds = time_graph([&] {
      for (std::size_t layer = 0; layer < kLayers; ++layer) {
        for (std::size_t i = 0; i < shapes.size(); ++i) {
          linear_.run(job(shapes[i], weights[i][layer % weights[i].size()], 1));
        }
      }
    });
    report(model, "layer", dtype, 1, bytes, {}, seconds / static_cast<double>(kLayers));
  }

  double time_graph(const std::function<void()>& body) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t run = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    body();
    check(cudaStreamEndCapture(stream_, &graph));
    check(cudaGraphInstantiate(&run, graph, 0));
    const double seconds = median(5, 41, [&] { check(cudaGraphLaunch(run, stream_)); });
    check(cudaGraphExecDestroy(run));
    check(cudaGraphDestroy(graph));
    return seconds;
  }
  double time_eager(const std::function<void()>& body) { return median(3, 11, body); }

  double median(int warm, int count, const std::function<void()>& body) {
    std::vector<double> seconds;
    for (int i = 0; i < warm + count; ++i) {
      check(cudaEventRecord(begin_, stream_));
      body();
      check(cudaEventRecord(end_, stream_));
      check(cudaEventSynchronize(end_));
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, begin_, end_));
      if (i >= warm) seconds.push_back(milliseconds / 1000.0);
    }
    std::ranges::sort(seconds);
    return seconds[seconds.size() / 2];
  }

  static void report(const char* model, const char* what, Dtype dtype, std::int64_t rows,
                     std::size_t bytes, const Shape& shape, double seconds) {
    fmt::print(R"({{"bench": "cuda_linear", "shape": "{}", "linear": "{}", "dtype": "{}", )"
               R"("rows": {}, "weight_bytes": {}, "seconds": {:.4g}, )",
               model, what, name(dtype), rows, bytes, seconds);
    if (rows == 1) {
      fmt::print("\"bytes_per_second\": {:.4g}}}\n", static_cast<double>(bytes) / seconds);
    } else {
      const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(shape.outputs) *
                           static_cast<double>(shape.cols);
      fmt::print("\"flops_per_second\": {:.4g}}}\n", flops / seconds);
    }
    std::fflush(stdout);
  }

  DeviceTraits device_;
  cudaStream_t stream_ = nullptr;
  LinearRunner linear_;
  DeviceMemory x_;
  DeviceMemory norm_;
  DeviceMemory residual_;
  DeviceMemory act_;
  DeviceMemory out_;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

int run(int argc, char** argv) {
  int device = 0;
  bool gemv = false;
  bool gemm = false;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--device" && i + 1 < argc) {
      device = std::atoi(argv[++i]);
    } else if (argument == "--gemv") {
      gemv = true;
    } else if (argument == "--gemm") {
      gemm = true;
    } else {
      names.emplace_back(argument);
    }
  }
  if (!gemv && !gemm) gemv = gemm = true;
  if (names.empty()) names = {"bf16", "f16", "q8_0", "q4_0", "q4_k", "q6_k"};
  const DeviceScope scope(device);
  Bench bench(device);
  for (int i = 0; i < kDtypeCount; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    if (std::ranges::find(names, name(dtype)) == names.end()) continue;
    const RandomBlocks blocks(dtype);
    if (gemv) bench.gemv(dtype, blocks);
    if (gemm) bench.gemm(dtype, blocks);
  }
  return 0;
}

}  // namespace
}  // namespace sedpa::cuda

int main(int argc, char** argv) {
  try {
    return sedpa::cuda::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
