// Seeded weights of known shapes: of every type numbers of the same size, so that activations stay
// where they are.
#include "sedpa/model/random_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "sedpa/format/quant_blocks.h"
#include "tests/format/support.h"

namespace sedpa {
namespace {

class RandomWeightsOfType : public ::testing::TestWithParam<const char*> {};

TEST_P(RandomWeightsOfType, KeepTheSizeOfWhatTheyMultiply) {
  const NamedShape shape = parse_shape(std::string("llama3.2-1b-layer1:") + GetParam());
  const RandomWeights weights(shape);
  for (const Role role : {Role::query, Role::down}) {
    const auto cols =
        std::int64_t{role == Role::query ? shape.config.width : shape.config.mlp_width};
    const MatrixSource source =
        weights.matrix({.role = role, .layer = 0, .rows = shape.config.width, .cols = cols});
    constexpr std::int64_t kRows = 40;
    std::vector<std::byte> stored(static_cast<std::size_t>(kRows * row_bytes(source.dtype, cols)));
    source.read(0, kRows, stored.data());
    std::vector<float> row(static_cast<std::size_t>(cols));
    double sum = 0;
    double squares = 0;
    for (std::int64_t i = 0; i < kRows; ++i) {
      dequantize_row(source.dtype, stored.data() + i * row_bytes(source.dtype, cols), cols,
                     row.data());
      for (const float x : row) {
        sum += x;
        squares += double{x} * double{x};
      }
    }
    const auto count = static_cast<double>(kRows * cols);
    EXPECT_NEAR(squares / count * static_cast<double>(cols), 1, 0.05);
    EXPECT_LT(std::fabs(sum / count), 0.1 * std::sqrt(squares / count));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, RandomWeightsOfType,
                         ::testing::Values("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0",
                                           "q5_1", "q4_k", "q5_k", "q6_k", "iq4_nl"),
                         [](const auto& type) { return std::string(type.param); });

TEST(RandomModel, NamesRowsThatAreNoWholeBlocks) {
  test::expect_error([] { (void)parse_shape("smollm2-135m:q4_k"); },
                     {"smollm2-135m:q4_k", "576", "q4_k", "256"});
}

}  // namespace
}  // namespace sedpa
