// The score of a head against a second way to get it: the same sequence through a session in which
// that head alone streams, and the output projection read from the file and multiplied in double.
#include "sedpa/identify/output_error.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "sedpa/core/error.h"
#include "sedpa/format/safetensors.h"
#include "tests/identify/copying_model.h"
#include "tests/support/f32_engine.h"
#include "tests/support/random_tokens.h"

namespace sedpa {
namespace {

using test::f32_engine;
using test::random_tokens;

const std::string kModels = std::string(SEDPA_SOURCE_DIR) + "/tests/data/models/";

// Attention output [tokens, query_cols] of one layer under a head plan.
std::vector<float> attention_output(Engine& engine, const HeadPlan& plan,
                                    const std::vector<std::int32_t>& tokens, std::int32_t layer) {
  SessionOptions options{.context = std::ssize(tokens), .heads = plan, .kv = KvDtype::f32};
  Session session(engine, options);
  std::vector<float> all;
  session.observe([&](std::int32_t at, Rows, Rows o) {
    if (at != layer) return;
    const std::size_t begin = all.size();
    all.resize(begin + static_cast<std::size_t>(o.rows * o.cols));
    engine.ops().read(o, all.data() + begin);
  });
  session.append(tokens);
  return all;
}

// |W x| with the output projection [width, query_cols] of a layer as the file has it.
double projected_norm(const TensorInfo& matrix, const std::vector<double>& x) {
  double square = 0;
  for (std::int64_t row = 0; row < matrix.shape[0]; ++row) {
    double sum = 0;
    for (std::int64_t col = 0; col < matrix.shape[1]; ++col) {
      float weight;
      std::memcpy(&weight, matrix.data.data() + 4 * (row * matrix.shape[1] + col), 4);
      sum += weight * x[static_cast<std::size_t>(col)];
    }
    square += sum * sum;
  }
  return std::sqrt(square);
}

class OutputErrorTest : public testing::Test {
 protected:
  OutputErrorTest() : engine_(f32_engine(kModels + "llama")) { engine_.load(); }

  RowLosses measure(const std::vector<std::int64_t>& rows, std::int32_t sink, std::int32_t recent,
                    std::int64_t chunk = 64) {
    OutputError measure(engine_, {.context = std::ssize(tokens_),
                                  .sink = sink,
                                  .recent = recent,
                                  .kv = KvDtype::f32,
                                  .chunk = chunk});
    return measure.measure(tokens_, rows);
  }

  Engine engine_;
  const std::vector<std::int32_t> tokens_ = random_tokens(220, engine_.config().vocab_size);
};

TEST_F(OutputErrorTest, EqualsTheDifferenceThatStreamingThatHeadMakes) {
  constexpr std::int32_t kSink = 4;
  constexpr std::int32_t kRecent = 16;
  const ModelConfig& config = engine_.config();
  // More rows than one pass holds; some see everything through the window, most do not.
  std::vector<std::int64_t> rows(110);
  std::iota(rows.begin(), rows.end(), 10);
  rows.push_back(219);
  const RowLosses losses = measure(rows, kSink, kRecent);
  ASSERT_EQ(losses.rows, std::ssize(rows));

  const SafetensorsFile file = SafetensorsFile::open(kModels + "llama/model.safetensors");
  const auto cols = static_cast<std::size_t>(config.query_heads * config.head_dim);
  for (std::int32_t layer = 0; layer < config.layers; ++layer) {
    const TensorInfo* matrix =
        file.find_tensor("model.layers." + std::to_string(layer) + ".self_attn.o_proj.weight");
    ASSERT_NE(matrix, nullptr);
    const std::vector<float> full = attention_output(engine_, engine_.full_plan(), tokens_, layer);
    for (std::int32_t head = 0; head < config.kv_heads; ++head) {
      // Nothing before this layer's attention changes when only this head streams.
      std::vector<double> gates(static_cast<std::size_t>(config.layers * config.kv_heads), 1.0);
      gates[static_cast<std::size_t>(layer * config.kv_heads + head)] = 0;
      const HeadPlan plan = HeadPlan::from_gates(gates, config.layers, config.kv_heads,
                                                 1.0 / static_cast<double>(gates.size()),
                                                 HeadClass{}, HeadClass::window(kSink, 0, kRecent));
      ASSERT_EQ(plan.streaming_heads(), 1);
      const std::vector<float> streamed = attention_output(engine_, plan, tokens_, layer);
      for (std::size_t r = 0; r < rows.size(); ++r) {
        const std::size_t at = static_cast<std::size_t>(rows[r]) * cols;
        std::vector<double> difference(cols);
        std::vector<double> whole(cols);
        for (std::size_t i = 0; i < cols; ++i) {
          difference[i] = double{full[at + i]} - double{streamed[at + i]};
          whole[i] = full[at + i];
        }
        const double expected =
            projected_norm(*matrix, difference) / projected_norm(*matrix, whole);
        EXPECT_NEAR(losses.loss(static_cast<std::int64_t>(r), layer, head), expected,
                    1e-4 * expected + 2e-5)
            << "row " << rows[r] << " layer " << layer << " head " << head;
      }
    }
  }
}

TEST_F(OutputErrorTest, NothingIsLostWhenTheWindowHoldsEverything) {
  const std::vector<std::int64_t> rows = {3, 100, 219};
  for (const auto& [sink, recent] :
       std::vector<std::pair<int, int>>{{0, 220}, {220, 1}, {110, 110}}) {
    const RowLosses losses = measure(rows, sink, recent);
    for (const float loss : losses.losses) EXPECT_LT(loss, 2e-5);
  }
  // And something is, when it does not.
  const RowLosses losses = measure({219}, 4, 16);
  for (const float loss : losses.losses) EXPECT_GT(loss, 1e-3);
}

TEST_F(OutputErrorTest, ChunksAndTheFirstMeasuredRowDoNotMatter) {
  const RowLosses once = measure({150, 151, 219}, 4, 16, 64);
  const RowLosses small = measure({150, 151, 219}, 4, 16, 7);
  const RowLosses more = measure({0, 60, 149, 150, 151, 219}, 4, 16, 64);
  const auto heads = static_cast<std::size_t>(once.layers * once.kv_heads);
  for (std::size_t i = 0; i < once.losses.size(); ++i) {
    EXPECT_NEAR(once.losses[i], small.losses[i], 1e-4);
    EXPECT_NEAR(once.losses[i], more.losses[i + 3 * heads], 1e-4);
  }
  EXPECT_EQ(once.likely, small.likely);
}

TEST_F(OutputErrorTest, RefusesWhatItCannotMeasure) {
  EXPECT_THROW(measure({5, 4}, 4, 16), Error);
  EXPECT_THROW(measure({220}, 4, 16), Error);
  EXPECT_THROW(measure({5}, -1, 16), Error);
  EXPECT_THROW(measure({5}, 0, 0), Error);
  Engine windowed(f32_engine(kModels + "mistral"));
  ASSERT_TRUE(windowed.config().sliding_window.has_value());
  windowed.load();
  try {
    OutputError refused(windowed, {.context = *windowed.config().sliding_window + 1});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("at most"), std::string::npos) << error.what();
  }
}

TEST(CopyingModelsErrors, TheHeadThatCopiesFromFarAwayScoresHighest) {
  const test::CopyingModel model;
  Engine engine(f32_engine(model.directory()));
  engine.load();
  std::vector<std::int32_t> tokens(300, test::CopyingModel::kPlain);
  tokens[40] = test::CopyingModel::kNeedle;  // behind the sinks, before the recent tokens
  tokens[299] = test::CopyingModel::kQuestion;
  OutputError measure(engine, {.context = 300, .sink = 16, .recent = 32, .kv = KvDtype::f32});
  const RowLosses losses = measure.measure(tokens, std::vector<std::int64_t>{298, 299});
  // Both heads say a vector of the same length, at right angles; the copying head's is all lost,
  // the other says the same under the window.
  EXPECT_NEAR(losses.loss(1, 0, 1), std::sqrt(0.5), 0.01);
  EXPECT_LT(losses.loss(1, 0, 0), 0.05f);
  // A plain token asks for nothing: what the copying head loses there is one token in 300.
  EXPECT_LT(losses.loss(0, 0, 1), 0.05f);
  // Where the needle is in the window, nothing is lost.
  OutputError wide(engine, {.context = 300, .sink = 41, .recent = 32, .kv = KvDtype::f32});
  const RowLosses kept = wide.measure(tokens, std::vector<std::int64_t>{299});
  EXPECT_LT(kept.loss(0, 0, 1), 0.05f);
}

}  // namespace
}  // namespace sedpa
