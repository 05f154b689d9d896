#include "sedpa/identify/gate_training.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "sedpa/core/error.h"
#include "tests/format/support.h"
#include "tests/support/devices.h"
#include "tests/support/tiny_model.h"

namespace sedpa {
namespace {

using test::expect_error;

const std::string kData = std::string(SEDPA_SOURCE_DIR) + "/tests/data/";

// --- Against PyTorch ----------------------------------------------------------------------------

// tests/reference/gate_training.py made the documents, and the losses and gates in float64.
TEST(GateTraining, TenStepsGiveTheGatesOfPyTorch) {
  std::ifstream file(kData + "gates/ten_steps.json");
  const nlohmann::json expected = nlohmann::json::parse(file);
  const auto& documents = expected.at("documents");
  ASSERT_EQ(documents.size(), 10u);
  struct Way {
    std::string device;
    Compute compute;
  };
  std::vector<Way> ways = {{"cpu", Compute::f32}};
  for (const std::string& device : test::devices()) ways.push_back({device, Compute::fast});
  for (const Way& way : ways) {
    const bool exact = way.compute == Compute::f32;
    SCOPED_TRACE(way.device + (exact ? ", f32" : ", fast"));
    EngineOptions options;
    options.model = kData + "models/" + expected.at("model").get<std::string>();
    options.device = way.device;
    options.threads = 2;
    options.compute = way.compute;
    Engine engine(options);
    engine.load();
    TrainingPass pass(engine.ops(), engine.model(),
                      {.heads = engine.full_plan(),
                       .window = HeadClass::window(expected.at("sink"), 0, expected.at("recent")),
                       .context = 96,
                       .span = 20,
                       .chunk = 32,
                       .kv = exact ? KvDtype::f32 : KvDtype::f16,
                       .kept = exact ? Dtype::f32 : Dtype::bf16});
    GateLearner learner(4, {.steps = expected.at("steps"),
                            .learning_rate = expected.at("learning_rate"),
                            .regularization = expected.at("regularization")});
    for (const auto& document : documents) {
      const auto tokens = document.at("tokens").get<std::vector<std::int32_t>>();
      const auto rows = document.at("rows").get<std::vector<std::int64_t>>();
      const auto& before = learner.state().gates;
      const std::vector<float> gates(before.begin(), before.end());
      std::vector<float> d_gates(gates.size());
      const auto loss = pass.run({tokens, rows}, gates, d_gates);
      ASSERT_TRUE(loss.has_value());
      EXPECT_NEAR(*loss, document.at("loss").get<double>(), exact ? 1e-6 : 5e-5);
      learner.step(d_gates);
      for (std::size_t i = 0; i < gates.size(); ++i) {
        EXPECT_NEAR(learner.state().gates[i], document.at("gates")[i].get<double>(),
                    exact ? 1e-5 : 1e-3)
            << "gate " << i << " after step " << learner.state().step;
      }
    }
  }
}

TEST(GateLearner, TheRateClimbsAndFallsOverAFifth) {
  GateLearner learner(1, {.steps = 100, .learning_rate = 0.5});
  std::vector<double> rates;
  for (int i = 0; i < 100; ++i) {
    rates.push_back(learner.rate());
    learner.step(std::vector<float>{0.0f});
  }
  EXPECT_DOUBLE_EQ(rates[0], 0.05);
  EXPECT_DOUBLE_EQ(rates[1], 0.05);  // a tenth of the rate at the least
  EXPECT_DOUBLE_EQ(rates[9], 0.25);
  for (int i = 19; i <= 80; ++i) EXPECT_DOUBLE_EQ(rates[i], 0.5) << i;
  EXPECT_DOUBLE_EQ(rates[90], 0.25);
  EXPECT_DOUBLE_EQ(rates[99], 0.05);
}

TEST(GateLearner, GatesStayBetweenZeroAndOne) {
  GateLearner learner(3, {.steps = 100, .learning_rate = 0.2, .regularization = 0.3});
  for (int i = 0; i < 50; ++i) learner.step(std::vector<float>{-1.0f, 1.0f, 0.0f});
  EXPECT_EQ(learner.state().gates[0], 1.0);
  EXPECT_EQ(learner.state().gates[1], 0.0);
  // |gate| pulls to zero and no further, and lets go there.
  EXPECT_EQ(learner.state().gates[2], 0.0);
  EXPECT_NEAR(learner.mean_gate(), 1.0 / 3, 1e-12);
}

TEST(RankSaturated, OrdersTheHighGatesAndLeavesTheOthers) {
  const std::vector<double> gates = {0.95, 0.2, 1.0, 0.9, 0.99, 1.0};
  const std::vector<double> scores = {0.5, 9.0, 0.1, 9.0, 0.7, 0.3};
  const std::vector<double> ranked = rank_saturated(gates, scores);
  EXPECT_EQ(ranked[1], 0.2);
  EXPECT_EQ(ranked[3], 0.9);
  EXPECT_LT(0.9, ranked[2]);
  EXPECT_LT(ranked[2], ranked[5]);
  EXPECT_LT(ranked[5], ranked[0]);
  EXPECT_LT(ranked[0], ranked[4]);
  EXPECT_DOUBLE_EQ(ranked[4], 1.0);
  EXPECT_EQ(rank_saturated({0.5, 0.1}, {1, 2}), (std::vector<double>{0.5, 0.1}));
}

// --- The whole way, with a model that knows nothing ---------------------------------------------

class TinyGateTraining : public testing::TestWithParam<std::string> {
 protected:
  TinyGateTraining() {
    test::write_tiny_model(folder_ / "tiny.gguf", {.layers = 3, .context = 1024});
    engine_ = open(folder_ / "tiny.gguf");
    std::string text;
    for (int i = 0; i < 60; ++i) text += "The snow fell all night, and nobody came.\n\n";
    filler_.emplace(engine_->tokenizer(), text, "snow");
  }

  static std::unique_ptr<Engine> open(const std::string& path) {
    EngineOptions options;
    options.model = path;
    options.device = GetParam();
    options.threads = 2;
    auto engine = std::make_unique<Engine>(options);
    engine->load();
    return engine;
  }
  // A byte is a token, so documents are long and keys are few.
  static GateTrainingOptions options() {
    GateTrainingOptions options;
    options.learning.steps = 6;
    options.shortest = 450;
    options.context = 600;
    options.intervals = 3;
    options.keys = 1;
    options.words = 2;
    options.sink = 4;
    options.recent = 16;
    return options;
  }

  test::TempDir folder_;
  std::unique_ptr<Engine> engine_;
  std::optional<FillerText> filler_;
};

TEST_P(TinyGateTraining, DocumentsCountTheRowsThatPredictAnswers) {
  const Tokenizer& tokenizer = engine_->tokenizer();
  std::vector<std::int64_t> lengths;
  const GateDocuments documents(tokenizer, *filler_, options());
  for (std::int64_t step = 0; step < 40; ++step) {
    const GateDocument document = documents.of_step(step);
    lengths.push_back(std::ssize(document.tokens));
    std::string answer;
    for (const std::int64_t row : document.rows) {
      answer += tokenizer.piece(document.tokens[static_cast<std::size_t>(row + 1)]);
    }
    std::string text;
    for (const std::int32_t token : document.tokens) text += tokenizer.piece(token);
    if (answer.front() == ' ') answer.erase(0, 1);  // of the key's first token
    const std::size_t told = text.find(" is: " + answer + ".\n\n");
    ASSERT_NE(told, std::string::npos) << answer;
    EXPECT_NE(text.find(" is: " + answer + ".\n", told + 1), std::string::npos);
    EXPECT_LE(document.rows.back() + 1 - document.rows.front(), documents.span());
    EXPECT_EQ(documents.of_step(step).tokens, document.tokens);
  }
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  EXPECT_EQ(lengths, (std::vector<std::int64_t>{450, 525, 600}));
}

TEST_P(TinyGateTraining, GoesOnFromACheckpointBitForBit) {
  GateTrainer whole(*engine_, *filler_, options());
  const std::string path = folder_ / "checkpoint.json";
  std::vector<double> losses;
  while (!whole.done()) {
    if (whole.learner().state().step == 2) whole.save(path);
    losses.push_back(whole.step()->loss);
  }
  EXPECT_LT(whole.learner().mean_gate(), 1);

  // In another process, so to speak.
  const auto engine = open(folder_ / "tiny.gguf");
  GateTrainer rest(*engine, *filler_, options());
  rest.resume(path);
  EXPECT_EQ(rest.learner().state().step, 2);
  for (std::size_t i = 2; i < losses.size(); ++i) EXPECT_EQ(rest.step()->loss, losses[i]);
  EXPECT_TRUE(rest.done());
  EXPECT_EQ(rest.learner().state(), whole.learner().state());
  EXPECT_EQ(rest.pattern().gates, whole.learner().state().gates);
}

TEST_P(TinyGateTraining, AStepThatIsStoppedChangesNothing) {
  GateTrainer trainer(*engine_, *filler_, options());
  ASSERT_TRUE(trainer.step());
  const GateLearner::State before = trainer.learner().state();
  int left = 3;
  EXPECT_FALSE(trainer.step([&] { return left-- > 0; }));
  EXPECT_EQ(trainer.learner().state(), before);
  EXPECT_TRUE(trainer.step());
}

TEST_P(TinyGateTraining, RefusesACheckpointOfSomethingElse) {
  const std::string path = folder_ / "checkpoint.json";
  {
    GateTrainer trainer(*engine_, *filler_, options());
    ASSERT_TRUE(trainer.step());
    trainer.save(path);
  }
  const auto refused = [&](const GateTrainingOptions& changed,
                           std::initializer_list<std::string_view> parts) {
    GateTrainer trainer(*engine_, *filler_, changed);
    expect_error([&] { trainer.resume(path); }, parts);
    EXPECT_EQ(trainer.learner().state().step, 0);
  };
  GateTrainingOptions changed = options();
  changed.learning.regularization = 0.1;
  refused(changed, {"checkpoint.json", "regularization", "0.05", "0.1"});
  changed = options();
  changed.seed = 2;
  refused(changed, {"seed"});
  changed = options();
  changed.recent = 17;
  refused(changed, {"recent", "16", "17"});

  test::write_tiny_model(folder_ / "other.gguf", {.layers = 3, .context = 1024, .seed = 5});
  const auto other = open(folder_ / "other.gguf");
  GateTrainer trainer(*other, *filler_, options());
  expect_error([&] { trainer.resume(path); }, {"model"});

  GateTrainer same(*engine_, *filler_, options());
  std::ifstream in(path);
  const nlohmann::json good = nlohmann::json::parse(in);
  const auto spoiled = [&](const char* key, const nlohmann::json& value,
                           const char* complaint = nullptr) {
    nlohmann::json bad = good;
    bad[key] = value;
    std::ofstream(path) << bad.dump();
    expect_error([&] { same.resume(path); },
                 {"checkpoint.json", complaint != nullptr ? complaint : key});
  };
  spoiled("format", "another");
  spoiled("settings", 3, "model");  // the first that is missed
  spoiled("step", 7);
  spoiled("step", -1);
  spoiled("step", "one");
  spoiled("gates", {1, 1, 1});
  spoiled("gates", {1, 1, 1, 1, 1, 1.5});
  spoiled("gates", {1, 1, 1, 1, 1, nullptr});
  spoiled("mean", 5);
  spoiled("square", {0, 0, 0, 0, 0, -1});
  std::ofstream(path) << "{";
  EXPECT_THROW(same.resume(path), Error);
  EXPECT_THROW(same.resume(folder_ / "nothing.json"), Error);
  EXPECT_EQ(same.learner().state().step, 0);
}

TEST_P(TinyGateTraining, ALossThatIsNoNumberKeepsTheLastGoodGates) {
  const test::TinyModel shape{.layers = 3, .context = 1024};
  GgufWriter file;
  test::add_tiny_config(file, shape);
  test::add_tiny_vocabulary(file, shape);
  test::add_tiny_tensors(file, shape, {"blk.2.ffn_norm.weight"});
  const std::vector<float> norm(32, std::numeric_limits<float>::infinity());
  file.add_tensor("blk.2.ffn_norm.weight", Dtype::f32, {32}, std::as_bytes(std::span(norm)));
  file.write(folder_ / "broken.gguf");
  const auto broken = open(folder_ / "broken.gguf");
  GateTrainer trainer(*broken, *filler_, options());
  const GateLearner::State before = trainer.learner().state();
  expect_error([&] { (void)trainer.step(); }, {"step 1", "not a number"});
  EXPECT_EQ(trainer.learner().state(), before);
}

TEST_P(TinyGateTraining, FindsBeforeTheWorkWhatCannotWork) {
  const auto refused = [&](const GateTrainingOptions& changed,
                           std::initializer_list<std::string_view> parts) {
    expect_error([&] { check_gate_training(*engine_, *filler_, changed); }, parts);
  };
  EXPECT_NO_THROW(check_gate_training(*engine_, *filler_, options()));
  GateTrainingOptions changed = options();
  changed.context = 2000;
  refused(changed, {"2000", "tiny.gguf", "1024"});
  changed = options();
  changed.recent = 596;
  refused(changed, {"600", "4 + 596"});
  changed = options();
  changed.shortest = 100;
  refused(changed, {"100", "at least"});
  const FillerText little(engine_->tokenizer(), "Too little.\n", "little.txt");
  expect_error([&] { check_gate_training(*engine_, little, options()); }, {"little.txt"});
}

TEST_P(TinyGateTraining, PlansWhatItAllocates) {
  GateTrainingOptions narrow = options();
  narrow.chunk = 128;
  const MemoryPlan small = GateTrainer::plan(*engine_, *filler_, narrow);
  GateTrainingOptions wide = narrow;
  wide.context = 1000;
  const MemoryPlan large = GateTrainer::plan(*engine_, *filler_, wide);
  EXPECT_EQ(small.weight_bytes, engine_->model().weight_bytes);
  EXPECT_GT(large.kv_bytes, small.kv_bytes);
  // What a tail cannot reach is not kept: only the cache and the angles grow with the context.
  const std::size_t angles = (1000 - 600) * 3 * 4 * sizeof(float);
  EXPECT_LT(large.scratch_bytes - small.scratch_bytes, 4 * angles + 200000);
}

INSTANTIATE_TEST_SUITE_P(Devices, TinyGateTraining, testing::ValuesIn(test::devices()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace sedpa
