// The gradient of the whole training loss with respect to every gate: the reference's against
// central differences, ours against the reference's. The reference computes every row, ours only
// those that have a say.
#include "sedpa/model/backward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "sedpa/backend/cpu/cpu_ops.h"
#include "sedpa/core/error.h"
#include "sedpa/engine/engine.h"
#include "tests/model/exact_teacher.h"
#include "tests/model/gate_reference.h"
#include "tests/support/f32_engine.h"
#ifdef SEDPA_HAVE_CUDA
#include "sedpa/backend/cuda/cuda_ops.h"
#endif

namespace sedpa::test {
namespace {

const std::string kModels = std::string(SEDPA_SOURCE_DIR) + "/tests/data/models/";

struct Case {
  std::string model;
  HeadClass window;
  std::int64_t tokens;
  std::vector<std::int64_t> rows;
  std::int64_t chunk;
  bool f32_weights = false;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.model; }

class GateGradient : public testing::TestWithParam<Case> {
 protected:
  GateGradient() : reference_(Checkpoint::open(kModels + GetParam().model)) {
    const ModelConfig& config = reference_.config();
    std::mt19937 random(31);
    for (std::int64_t i = 0; i < GetParam().tokens; ++i) {
      tokens_.push_back(static_cast<std::int32_t>(random() % config.vocab_size));
    }
    for (std::int32_t i = 0; i < config.layers * config.kv_heads; ++i) {
      gates_.push_back(static_cast<float>(0.1 + 0.8 * static_cast<double>(random() % 1000) / 1000));
    }
    gates_f64_.assign(gates_.begin(), gates_.end());
  }

  double loss(std::span<const double> gates, std::vector<double>* d_gates = nullptr) const {
    return reference_.loss(tokens_, GetParam().rows, GetParam().window, gates, d_gates);
  }

  struct Found {
    double loss = 0;
    std::vector<float> d_gates;
  };
  /// Twice, which must give the same bits.
  Found run(const std::string& device, KvDtype kv) const {
    EngineOptions engine_options = f32_engine(kModels + GetParam().model);
    engine_options.device = device;
    if (device != "cpu") engine_options.compute = Compute::fast;
    Engine engine(engine_options);
    engine.load();
    TrainingPass pass(engine.ops(), engine.model(),
                      {.heads = engine.full_plan(),
                       .window = GetParam().window,
                       .context = GetParam().tokens,
                       .span = GetParam().rows.back() + 1 - GetParam().rows.front(),
                       .chunk = GetParam().chunk,
                       .kv = kv,
                       .kept = Dtype::f32});
    Found found[2];
    for (Found& each : found) {
      each.d_gates.resize(gates_.size());
      each.loss = pass.run({tokens_, GetParam().rows}, gates_, each.d_gates).value();
    }
    EXPECT_EQ(found[0].loss, found[1].loss);
    EXPECT_EQ(found[0].d_gates, found[1].d_gates) << "a second run gives other bits";
    return found[0];
  }

  static std::vector<std::unique_ptr<Ops>> backends() {
    std::vector<std::unique_ptr<Ops>> all;
    all.push_back(make_cpu_ops({.threads = 2, .compute = Compute::f32}));
#ifdef SEDPA_HAVE_CUDA
    if (!cuda_devices().empty()) all.push_back(make_cuda_ops({}));
#endif
    return all;
  }

  Found run_exact(Ops& ops) const {
    const Checkpoint checkpoint = Checkpoint::open(kModels + GetParam().model);
    const auto stored = checkpoint_weights(checkpoint, {});
    const Model model = load_model(checkpoint.config(), F32Weights(*stored), ops, {});
    const ModelConfig& config = model.config;
    const auto rows = std::ssize(tokens_);
    ExactTeacher teacher(ops, config.native_class(), config.attention(), rows);
    TrainingPass pass(
        teacher, model,
        {.heads = HeadPlan::uniform(config.layers, config.kv_heads, config.native_class()),
         .window = GetParam().window,
         .context = rows,
         .span = GetParam().rows.back() + 1 - GetParam().rows.front(),
         .chunk = rows,
         .kept = Dtype::f32});
    // The teacher's attention has more rows than the student's.
    const std::int64_t widest = std::max<std::int64_t>(
        {config.width, 2 * std::int64_t{config.mlp_width}, config.attention().qkv_cols()});
    ops.train().reserve({.attention = config.attention(),
                         .rope = config.rope(),
                         .max_tokens = rows,
                         .max_rows = rows,
                         .max_context = rows,
                         .max_cols = widest,
                         .max_rank = config.max_rank});
    Found found;
    found.d_gates.resize(gates_.size());
    found.loss = pass.run({tokens_, GetParam().rows}, gates_, found.d_gates).value();
    return found;
  }

  GateReference reference_;
  std::vector<std::int32_t> tokens_;
  std::vector<float> gates_;
  std::vector<double> gates_f64_;
};

TEST_P(GateGradient, OfTheReferenceIsTheSlope) {
  std::vector<double> d_gates;
  (void)loss(gates_f64_, &d_gates);
  constexpr double kStep = 1e-3;
  for (std::size_t i = 0; i < d_gates.size(); ++i) {
    const auto at = [&](double step) {
      std::vector<double> moved = gates_f64_;
      moved[i] += step;
      return loss(moved);
    };
    const double slope =
        (8 * (at(kStep) - at(-kStep)) - (at(2 * kStep) - at(-2 * kStep))) / (12 * kStep);
    EXPECT_NEAR(d_gates[i], slope, 1e-7 * std::abs(slope)) << "gate " << i;
  }
}

TEST_P(GateGradient, OfTheCpuIsTheReferences) {
  constexpr double kTolerance = 1e-4;
  std::vector<double> expected;
  const double expected_loss = loss(gates_f64_, &expected);
  const Found found = run("cpu", KvDtype::f32);
  EXPECT_NEAR(found.loss, expected_loss, kTolerance * expected_loss);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(found.d_gates[i], expected[i], kTolerance * std::abs(expected[i])) << "gate " << i;
  }
}

// Every number of both streams f32, on every backend: what a GPU rounds on its fast way (16-bit
// inputs of products and of the teacher's attention) is left out, what computes gradients is not.
TEST_P(GateGradient, OfEveryBackendInF32IsTheReferences) {
  constexpr double kTolerance = 1e-4;
  std::vector<double> expected;
  const double expected_loss = loss(gates_f64_, &expected);
  for (const auto& ops : backends()) {
    SCOPED_TRACE(ops->traits().device);
    const Found found = run_exact(*ops);
    EXPECT_NEAR(found.loss, expected_loss, kTolerance * expected_loss);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(found.d_gates[i], expected[i], kTolerance * std::abs(expected[i]))
          << "gate " << i;
    }
  }
}

#ifdef SEDPA_HAVE_CUDA
// The teacher's attention multiplies f16 numbers there, and products with weights bf16 ones unless
// the weights are f32; gradients and the student's attention are f32. So a layer rounds what it
// multiplies five times (attention, and the input of each product), the student's and the teacher's
// stream alike, and the backward pass the gradients. Roundings of what a gradient is a difference
// of are measured by the largest gradient.
TEST_P(GateGradient, OfTheGpuIsTheReferences) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU";
  std::vector<double> expected;
  const double expected_loss = loss(gates_f64_, &expected);
  const double unit = GetParam().f32_weights ? 0x1p-11 : 0x1p-8;
  const double tolerance = 5 * reference_.config().layers * unit;
  double largest = 0;
  for (const double d : expected) largest = std::max(largest, std::abs(d));
  const Found found = run("cuda", KvDtype::f16);
  EXPECT_NEAR(found.loss, expected_loss, tolerance * expected_loss);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(found.d_gates[i], expected[i], tolerance * largest) << "gate " << i;
  }
}
#endif

// With all gates at 1 both streams are one, and the loss is least.
TEST_P(GateGradient, VanishesWhereNothingStreams) {
  std::fill(gates_f64_.begin(), gates_f64_.end(), 1.0);
  std::vector<double> d_gates;
  EXPECT_LT(loss(gates_f64_, &d_gates), 1e-20);
  for (const double d : d_gates) EXPECT_LT(std::abs(d), 1e-10);
}

INSTANTIATE_TEST_SUITE_P(
    Models, GateGradient,
    testing::Values(
        // The tail is cut in both layers; rows in two runs, the last token not counted.
        Case{"llama", HeadClass::window(3, 0, 7), 80, {60, 61, 62, 70, 71, 75}, 16, true},
        // No sinks; one row; chunks that cut runs.
        Case{"llama", HeadClass::window(0, 0, 5), 50, {49}, 7, true},
        // The lower layer needs every row.
        Case{"llama", HeadClass::window(4, 0, 16), 50, {30, 31, 32, 33}, 64, true},
        // A window of one token, sinks alone beside it.
        Case{"llama", HeadClass::window(2, 0, 1), 40, {20, 39}, 16, true},
        Case{"qwen3", HeadClass::window(3, 0, 6), 60, {50, 51, 57}, 16},       // norms of heads
        Case{"qwen2-f16.gguf", HeadClass::window(2, 0, 6), 60, {50, 59}, 32},  // biases
        Case{"llama-yarn", HeadClass::window(2, 0, 9), 70, {60, 61, 69}, 32},
        Case{"mistral", HeadClass::window(2, 0, 4), 50, {40, 44}, 16},  // its own sliding window
        Case{"qwen3-low-rank", HeadClass::window(3, 0, 6), 60, {50, 51, 57}, 16}),  // factors
    [](const auto& test) { return "case" + std::to_string(test.index); });

TEST(TrainingPass, RefusesWhatItCannotRead) {
  EngineOptions engine_options;
  engine_options.model = kModels + "llama";
  engine_options.threads = 1;
  Engine engine(engine_options);
  engine.load();
  TrainingOptions options{
      .heads = engine.full_plan(), .window = HeadClass::window(2, 0, 4), .context = 20, .span = 5};
  TrainingPass pass(engine.ops(), engine.model(), options);
  const std::vector<std::int32_t> tokens(21, 1);
  const std::vector<float> gates(4, 1.0f);
  std::vector<float> d_gates(4);
  const auto refused = [&](std::size_t count, std::vector<std::int64_t> rows) {
    EXPECT_THROW((void)pass.run({std::span(tokens).first(count), rows}, gates, d_gates), Error);
  };
  refused(21, {5});
  refused(20, {});
  refused(20, {5, 4});
  refused(20, {20});
  refused(20, {-1});
  refused(20, {5, 10});
  options.span = 21;
  EXPECT_THROW(TrainingPass(engine.ops(), engine.model(), options), Error);
  options.span = 5;
  options.window = HeadClass::window(2, 1, 4);
  EXPECT_THROW(TrainingPass(engine.ops(), engine.model(), options), Error);
}

TEST(TrainingPass, StopsWhenAskedAndStartsAgain) {
  EngineOptions engine_options;
  engine_options.model = kModels + "llama";
  engine_options.threads = 2;
  Engine engine(engine_options);
  engine.load();
  TrainingPass pass(engine.ops(), engine.model(),
                    {.heads = engine.full_plan(),
                     .window = HeadClass::window(2, 0, 4),
                     .context = 40,
                     .span = 5,
                     .chunk = 8});
  const std::vector<std::int32_t> tokens(40, 1);
  const std::vector<std::int64_t> rows = {35, 36, 39};
  const std::vector<float> gates(4, 0.5f);
  std::vector<float> whole(4);
  std::vector<float> again(4);
  int asked = 0;
  ASSERT_TRUE(pass.run({tokens, rows}, gates, whole, [&] { return ++asked > 0; }));
  for (int stop = 0; stop < asked; ++stop) {
    int left = stop;
    EXPECT_FALSE(pass.run({tokens, rows}, gates, again, [&] { return left-- > 0; }));
  }
  ASSERT_TRUE(pass.run({tokens, rows}, gates, again));
  EXPECT_EQ(whole, again);
}

}  // namespace
}  // namespace sedpa::test
