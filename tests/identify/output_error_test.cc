// The score of a head against a second way to get it: the same sequence through a session in which
// that head alone streams, and the output projection read from the file and multiplied in double.
#include "sedpa/identify/output_error.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <random>

#include "sedpa/core/error.h"
#include "sedpa/format/safetensors.h"

namespace sedpa {
namespace {

const std::string kModels = std::string(SEDPA_SOURCE_DIR) + "/tests/data/models/";

EngineOptions f32_engine(const std::string& model) {
  EngineOptions options;
  options.model = model;
  options.threads = 2;
  options.compute = Compute::f32;
  return options;
}

std::vector<std::int32_t> random_tokens(std::size_t count, std::int32_t vocabulary) {
  std::mt19937 random(17);
  std::vector<std::int32_t> tokens(count);
  for (std::int32_t& token : tokens) {
    token = static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocabulary));
  }
  return tokens;
}

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

// One layer, two KV heads of one query head each, head size 4, width 8, written by hand. Head 1
// copies: the question's query meets the needle's key, and the value tells of the needle. Head 0
// looks at everything alike.
class CopyingModel : public testing::Test {
 protected:
  static constexpr std::int32_t kWidth = 8;
  static constexpr std::int32_t kNeedle = 0, kQuestion = 1, kPlain = 2, kVocabulary = 4;

  CopyingModel() {
    directory_ = testing::TempDir() + "sedpa_copying_model";
    std::filesystem::create_directories(directory_);
    std::ofstream(directory_ + "/config.json") << R"({"architectures": ["LlamaForCausalLM"],
      "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
      "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 4,
      "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1e12,
      "hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "float32"})";
    // Every embedding has the same length, so that the norm changes nothing but a factor.
    set("model.embed_tokens.weight", kVocabulary, kWidth,
        {{kNeedle, 0}, {kQuestion, 1}, {kPlain, 2}, {3, 3}}, 1);
    set("model.layers.0.input_layernorm.weight", 0, kWidth, {}, 1);
    set("model.layers.0.post_attention_layernorm.weight", 0, kWidth, {}, 1);
    set("model.norm.weight", 0, kWidth, {}, 1);
    // Number 3 of a head rotates by position / 1e6: hardly at all. Rows 4 to 7 are head 1.
    set("model.layers.0.self_attn.q_proj.weight", 8, kWidth, {{7, 1}}, 10);
    set("model.layers.0.self_attn.k_proj.weight", 8, kWidth, {{7, 0}}, 10);
    // Head 0 passes on that there are tokens, head 1 that there was a needle.
    set("model.layers.0.self_attn.v_proj.weight", 8, kWidth, {{0, 2}, {4, 0}}, 1);
    set("model.layers.0.self_attn.o_proj.weight", kWidth, 8, {{4, 0}, {5, 4}}, 1);
    set("model.layers.0.mlp.gate_proj.weight", 8, kWidth, {}, 0);
    set("model.layers.0.mlp.up_proj.weight", 8, kWidth, {}, 0);
    set("model.layers.0.mlp.down_proj.weight", kWidth, 8, {}, 0);
    set("lm_head.weight", kVocabulary, kWidth, {}, 0);
    SafetensorsWriter writer;
    for (const auto& [name, tensor] : tensors_) {
      writer.add_tensor(name, Dtype::f32, tensor.shape, std::as_bytes(std::span(tensor.numbers)));
    }
    writer.write(directory_ + "/model.safetensors");
  }
  ~CopyingModel() override { std::filesystem::remove_all(directory_); }

  // A matrix of zeros with `value` at some places; a vector (rows = 0) full of it.
  void set(const std::string& name, std::int64_t rows, std::int64_t cols,
           const std::vector<std::pair<int, int>>& places, float value) {
    Tensor& tensor = tensors_[name];
    tensor.shape = rows > 0 ? std::vector{rows, cols} : std::vector{cols};
    tensor.numbers.assign(static_cast<std::size_t>(std::max<std::int64_t>(rows, 1) * cols),
                          rows > 0 ? 0.0f : value);
    for (const auto& [row, col] : places) {
      tensor.numbers[static_cast<std::size_t>(row * cols + col)] = value;
    }
  }

  struct Tensor {
    std::vector<std::int64_t> shape;
    std::vector<float> numbers;
  };
  std::map<std::string, Tensor> tensors_;
  std::string directory_;
};

TEST_F(CopyingModel, TheHeadThatCopiesFromFarAwayScoresHighest) {
  Engine engine(f32_engine(directory_));
  engine.load();
  std::vector<std::int32_t> tokens(300, kPlain);
  tokens[40] = kNeedle;  // behind the sinks, before the recent tokens
  tokens[299] = kQuestion;
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
