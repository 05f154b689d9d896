#include "sedpa/core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace sedpa {
namespace {

bool is_nan_f16(std::uint32_t bits) { return (bits & 0x7c00u) == 0x7c00u && (bits & 0x3ffu) != 0; }

// IEEE 754: sign, five bits of exponent, ten of fraction.
double meaning_of_f16(std::uint32_t bits) {
  const double sign = (bits & 0x8000u) != 0 ? -1 : 1;
  const int exponent = static_cast<int>((bits >> 10) & 31);
  const int fraction = static_cast<int>(bits & 1023);
  if (exponent == 31) return sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

TEST(Half, EveryValueMeansWhatIeeeSays) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float value = f16_to_f32(static_cast<std::uint16_t>(bits));
    if (is_nan_f16(bits)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(value), meaning_of_f16(bits)) << bits;
      ASSERT_EQ(f32_to_f16(value), bits);
    }
  }
  EXPECT_TRUE(is_nan_f16(f32_to_f16(std::numeric_limits<float>::quiet_NaN())));
}

// Between two neighbours the nearer one is taken, in the middle the even one.
TEST(Half, RoundsToNearestEven) {
  for (std::uint32_t bits = 0; bits < 0x7bffu; ++bits) {
    const double low = meaning_of_f16(bits);
    const double high = meaning_of_f16(bits + 1);
    const auto middle = static_cast<float>((low + high) / 2);
    const float inf = std::numeric_limits<float>::infinity();
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, -inf)), bits);
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, inf)), bits + 1);
    ASSERT_EQ(f32_to_f16(middle), bits + (bits & 1)) << bits;
    ASSERT_EQ(f32_to_f16(-middle), (bits + (bits & 1)) | 0x8000u) << bits;
  }
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7bffu);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00u);
  EXPECT_EQ(f32_to_f16(1e30f), 0x7c00u);
}

TEST(Bfloat16, RoundsToNearestEven) {
  std::mt19937 random(1);
  for (int i = 0; i < 100000; ++i) {
    const auto bits = static_cast<std::uint16_t>(random() & 0x7f7fu);  // finite
    const float low = bf16_to_f32(bits);
    const float high = bf16_to_f32(static_cast<std::uint16_t>(bits + 1));
    ASSERT_EQ(f32_to_bf16(low), bits);
    if (!std::isfinite(high)) continue;
    const auto middle = static_cast<float>((static_cast<double>(low) + high) / 2);
    ASSERT_EQ(f32_to_bf16(middle), bits + (bits & 1));
    ASSERT_EQ(f32_to_bf16(std::nextafter(middle, high)), bits + 1);
    ASSERT_EQ(f32_to_bf16(std::nextafter(middle, low)), bits);
  }
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::numeric_limits<float>::quiet_NaN()))));
}

// ggml's block sizes: numbers and bytes.
TEST(Dtype, RowsHaveTheBytesOfTheirBlocks) {
  EXPECT_EQ(row_bytes(Dtype::f32, 576), 2304);
  EXPECT_EQ(row_bytes(Dtype::bf16, 576), 1152);
  EXPECT_EQ(row_bytes(Dtype::q8_0, 576), 18 * 34);
  EXPECT_EQ(row_bytes(Dtype::q4_1, 576), 18 * 20);
  EXPECT_EQ(row_bytes(Dtype::q4_k, 512), 2 * 144);
  EXPECT_EQ(row_bytes(Dtype::q6_k, 512), 2 * 210);
  EXPECT_EQ(name(Dtype::iq4_nl), "iq4_nl");
  EXPECT_EQ(parse_kv_dtype("q8"), KvDtype::q8);
  EXPECT_FALSE(parse_kv_dtype("q5").has_value());
}

}  // namespace
}  // namespace sedpa
