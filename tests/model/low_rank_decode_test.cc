// A model of 16-bit factors, token by token, against all tokens at once on the CPU in f32. The tiny
// models of transformers are too small and too precise for the kernels that decode such models.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/session.h"
#include "sedpa/model/random_model.h"
#include "tests/support/devices.h"

namespace sedpa {
namespace {

constexpr std::int32_t kVocabulary = 301;

/// Logits [tokens, kVocabulary] of seeded tokens, in chunks, half of the KV heads streaming.
std::vector<float> logits(const std::string& shape_name, const std::string& device,
                          std::int64_t chunk) {
  NamedShape shape = parse_shape(shape_name);
  shape.config.vocab_size = kVocabulary;
  EngineOptions options;
  options.device = device;
  options.threads = 2;
  options.compute = device == "cpu" ? Compute::f32 : Compute::fast;
  Engine engine(options, shape.config, std::make_unique<RandomWeights>(shape));
  engine.load();
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 40; ++i) tokens.push_back((i * i * 7 + 3 * i + 5) % kVocabulary);
  SessionOptions session_options;
  session_options.context = static_cast<std::int64_t>(tokens.size());
  session_options.heads = engine.full_plan();
  session_options.heads.classes[kStreaming] = HeadClass::window(2, 0, 9);
  for (LayerHeads& layer : session_options.heads.layers) layer.retrieval = 2;
  session_options.kv = KvDtype::f16;
  session_options.chunk = chunk;
  session_options.logit_rows = chunk;
  Session session(engine, session_options);
  std::vector<float> all;
  session.evaluate(tokens, [&](std::int64_t, std::span<const float> rows) {
    all.insert(all.end(), rows.begin(), rows.end());
  });
  return all;
}

/// |a - b| / |b|
double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - double{b[i]}, 2);
    size += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(error / size);
}

class LowRankDecode : public testing::TestWithParam<std::string> {};

// Whole matrices; all four projections of three layers as factors; query and output alone, since
// the rank is too high for key and value. Keys and values in f16 and 16-bit numbers in tensor cores
// move logits by some thousandths.
TEST_P(LowRankDecode, GivesTheLogitsOfAllTokensAtOnce) {
  for (const std::string shape :
       {"smollm2-135m-layer4:bf16", "smollm2-135m-layer4-rank64:bf16",
        "smollm2-135m-layer4-rank160:bf16", "smollm2-135m-layer4-rank64:q8_0"}) {
    SCOPED_TRACE(shape);
    const auto expected = logits(shape, "cpu", 40);
    for (const std::int64_t chunk : {std::int64_t{1}, std::int64_t{40}}) {
      SCOPED_TRACE(chunk);
      EXPECT_LE(relative_error(logits(shape, GetParam(), chunk), expected), 0.02);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, LowRankDecode, testing::ValuesIn(test::devices()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace sedpa
