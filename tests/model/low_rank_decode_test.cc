// A model of 16-bit factors, token by token, against all tokens at once on the CPU in f32. The tiny
// models of transformers are too small and too precise for the kernels that decode such models.
#include <gtest/gtest.h>

#include <iterator>
#include <string>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/shape_engine.h"

namespace sedpa {
namespace {

using test::relative_error;

/// Logits [tokens, vocabulary] of seeded tokens, in chunks, half of the KV heads streaming.
std::vector<float> logits(const std::string& shape, const std::string& device, std::int64_t chunk) {
  const auto engine = test::shape_engine(shape, device);
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 40; ++i) {
    tokens.push_back((i * i * 7 + 3 * i + 5) % test::kShapeVocabulary);
  }
  SessionOptions options = test::streaming_options(*engine, std::ssize(tokens), chunk);
  options.logit_rows = chunk;
  Session session(*engine, options);
  std::vector<float> all;
  session.evaluate(tokens, [&](std::int64_t, std::span<const float> rows) {
    all.insert(all.end(), rows.begin(), rows.end());
  });
  return all;
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
