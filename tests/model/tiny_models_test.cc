// Tiny models of every supported family against Hugging Face transformers, token by token: names,
// shapes, biases, norms, every RoPE scaling, the sliding window, both file forms.
//
// tests/reference/make_tiny_models.py made the models and the logits, in float64. It also says how
// far transformers itself is from them when it runs in float32 (`f32_error`, the largest difference
// over all logits). Another float32 program sums in other orders, so its error is another draw from
// the same distribution: the bound is four times that yardstick. A GPU's tensor cores take bf16
// numbers, whose unit roundoff is 2^16 times that of float32, and so is the bound.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/session.h"
#include "tests/support/devices.h"

namespace sedpa {
namespace {

const std::string kData = std::string(SEDPA_SOURCE_DIR) + "/tests/data/models/";

struct TinyModel {
  std::string name;
  std::string path;
  std::vector<std::int32_t> tokens;
  std::size_t vocabulary = 0;
  std::string device;
  double yardstick = 0;  // four times the error of another f32 program
  double bound = 0;
  std::vector<float> logits;  // [tokens, vocabulary]
};

std::vector<TinyModel> tiny_models() {
  std::ifstream file(kData + "cases.json");
  if (!file) throw std::runtime_error(kData + "cases.json: cannot be opened");
  std::vector<TinyModel> models;
  for (const auto& entry : nlohmann::json::parse(file)) {
    TinyModel model;
    model.name = entry.at("name");
    model.path = kData + entry.at("model").get<std::string>();
    model.tokens = entry.at("tokens").get<std::vector<std::int32_t>>();
    model.vocabulary = entry.at("vocabulary");
    model.yardstick = 4 * entry.at("f32_error").get<double>();
    model.logits.resize(model.tokens.size() * model.vocabulary);
    std::ifstream numbers(kData + entry.at("logits").get<std::string>(), std::ios::binary);
    numbers.read(reinterpret_cast<char*>(model.logits.data()),
                 static_cast<std::streamsize>(model.logits.size() * sizeof(float)));
    if (!numbers) throw std::runtime_error("the logits of " + model.name + " are cut short");
    for (const std::string& device : test::devices()) {
      model.device = device;
      model.bound = device == "cpu" ? model.yardstick : 0x1p16 * model.yardstick;
      models.push_back(model);
    }
  }
  return models;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(double{a[i]} - double{b[i]});
    if (!(difference <= largest)) largest = std::isnan(difference) ? INFINITY : difference;
  }
  return largest;
}

class TinyModels : public testing::TestWithParam<TinyModel> {
 protected:
  void SetUp() override {
    EngineOptions options;
    options.model = GetParam().path;
    options.device = GetParam().device;
    options.threads = 2;
    options.compute = options.device == "cpu" ? Compute::f32 : Compute::fast;
    engine_ = std::make_unique<Engine>(options);
    engine_->load();
  }

  /// Logits of all tokens, fed in chunks.
  std::vector<float> logits(const HeadPlan& heads, std::int64_t chunk, KvDtype kv = KvDtype::f32) {
    SessionOptions options;
    options.context = static_cast<std::int64_t>(GetParam().tokens.size());
    options.heads = heads;
    options.kv = kv;
    options.chunk = chunk;
    options.logit_rows = chunk;
    Session session(*engine_, options);
    std::vector<float> all;
    session.evaluate(GetParam().tokens, [&](std::int64_t first, std::span<const float> rows) {
      EXPECT_EQ(static_cast<std::size_t>(first) * GetParam().vocabulary, all.size());
      all.insert(all.end(), rows.begin(), rows.end());
    });
    return all;
  }

  std::unique_ptr<Engine> engine_;
};

TEST_P(TinyModels, GiveTheLogitsOfTransformers) {
  for (std::int64_t chunk : {64, 7, 1}) {
    SCOPED_TRACE(chunk);
    EXPECT_LE(largest_difference(logits(engine_->full_plan(), chunk), GetParam().logits),
              GetParam().bound);
  }
}

// A GPU has other kernels for 16-bit caches; what the cache rounds, its tensor cores round anyway.
TEST_P(TinyModels, GiveThemFromA16BitCache) {
  if (GetParam().device == "cpu") GTEST_SKIP() << "the CPU's rounding is finer than such a cache's";
  for (const KvDtype kv : {KvDtype::f16, KvDtype::bf16}) {
    for (std::int64_t chunk : {64, 7, 1}) {
      SCOPED_TRACE(chunk);
      EXPECT_LE(largest_difference(logits(engine_->full_plan(), chunk, kv), GetParam().logits),
                GetParam().bound)
          << name(kv);
    }
  }
}

// A window that holds everything is full attention.
TEST_P(TinyModels, ALongWindowIsFullAttention) {
  if (engine_->config().sliding_window) GTEST_SKIP() << "its own window is shorter";
  HeadPlan heads = engine_->full_plan();
  heads.classes[kStreaming] = HeadClass::window(4, 0, 64);
  for (LayerHeads& layer : heads.layers) layer.retrieval = 0;
  for (std::int64_t chunk : {64, 1}) {
    SCOPED_TRACE(chunk);
    EXPECT_LE(largest_difference(logits(heads, chunk), GetParam().logits), GetParam().bound);
  }
}

// Half of the heads stream, the ring wraps several times: the cut into chunks does not show. Each
// side is within the yardstick of the same exact logits.
TEST_P(TinyModels, StreamingDoesNotDependOnChunks) {
  HeadPlan heads = engine_->full_plan();
  heads.classes[kStreaming] = HeadClass::window(2, 0, 9);
  for (std::size_t i = 0; i < heads.layers.size(); ++i) {
    heads.layers[i].retrieval = (engine_->config().kv_heads + static_cast<int>(i % 2)) / 2;
  }
  const auto one_shot = logits(heads, 64);
  EXPECT_GT(largest_difference(one_shot, GetParam().logits), 1000 * GetParam().yardstick)
      << "streaming leaves no trace";
  for (std::int64_t chunk : {13, 7, 1}) {
    SCOPED_TRACE(chunk);
    EXPECT_LE(largest_difference(logits(heads, chunk), one_shot), 2 * GetParam().bound);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TinyModels, testing::ValuesIn(tiny_models()),
                         [](const auto& test) {
                           std::string name = test.param.name + "_" + test.param.device;
                           for (char& c : name) {
                             if (c == '-') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace sedpa
