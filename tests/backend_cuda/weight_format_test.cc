#include "sedpa/backend/cuda/weight_format.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "sedpa/format/quant_blocks.h"

namespace sedpa::cuda {
namespace {

std::vector<Dtype> all_dtypes() {
  std::vector<Dtype> all;
  for (int i = 0; i < kDtypeCount; ++i) all.push_back(static_cast<Dtype>(i));
  return all;
}

/// Clears bit 14 of the f16 at an address: what is left is finite, below 2.
void make_finite(std::byte* at) { at[1] &= std::byte{0xbf}; }

/// Rows of random blocks: every code and every place of a scale occurs.
std::vector<std::byte> random_rows(Dtype dtype, std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(static_cast<unsigned>(dtype) + 1);
  std::vector<std::byte> bytes(static_cast<std::size_t>(rows * row_bytes(dtype, cols)));
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  for (std::size_t at = 0; at < bytes.size(); at += static_cast<std::size_t>(block_bytes(dtype))) {
    std::byte* block = bytes.data() + at;
    switch (dtype) {
      case Dtype::f32: {
        const float value = std::uniform_real_distribution<float>(-4, 4)(random);
        std::memcpy(block, &value, sizeof value);
        break;
      }
      case Dtype::q4_1:
      case Dtype::q5_1:
      case Dtype::q4_k:
      case Dtype::q5_k:
        make_finite(block);
        make_finite(block + 2);
        break;
      case Dtype::q6_k:
        make_finite(block + 208);
        break;
      default:
        make_finite(block);
    }
  }
  return bytes;
}

class WeightFormat : public testing::TestWithParam<Dtype> {};

// What is repacked and read as kernels read it is what format says the file's row holds, to the
// bit. An odd number of chunks leaves the last word of scales half used.
TEST_P(WeightFormat, RowsComeBackExactly) {
  const Dtype dtype = GetParam();
  const std::int64_t block = block_size(dtype);
  for (const std::int64_t cols : {block * 1, block * 5, block * 16, block * 37}) {
    constexpr std::int64_t kRows = 3;
    const std::vector<std::byte> rows = random_rows(dtype, kRows, cols);
    const std::int64_t stored = row_layout(dtype, cols).bytes;
    // 0x55: what is not written is seen below.
    std::vector<std::byte> packed(static_cast<std::size_t>(kRows * stored), std::byte{0x55});
    repack_rows(dtype, rows.data(), kRows, cols, packed.data());
    std::vector<float> wanted(static_cast<std::size_t>(cols));
    std::vector<float> got(wanted);
    for (std::int64_t i = 0; i < kRows; ++i) {
      dequantize_row(dtype, rows.data() + i * row_bytes(dtype, cols), cols, wanted.data());
      unpack_row(dtype, packed.data() + i * stored, cols, got.data());
      for (std::size_t k = 0; k < wanted.size(); ++k) {
        ASSERT_EQ(wanted[k], got[k]) << name(dtype) << " row " << i << " column " << k;
      }
    }
    if (is_quantized(dtype)) continue;
    const std::int64_t used = cols * number_bytes(dtype);
    for (std::int64_t k = used; k < stored; ++k) {
      EXPECT_EQ(packed[static_cast<std::size_t>(k)], std::byte{0}) << k;
    }
  }
}

TEST_P(WeightFormat, TakesTheBytesOfTheFile) {
  const Dtype dtype = GetParam();
  const std::int64_t file = row_bytes(dtype, 4096);
  const bool wider_scales = dtype == Dtype::q4_k || dtype == Dtype::q5_k;
  EXPECT_EQ(row_layout(dtype, 4096).bytes, wider_scales ? file + 4096 / 64 : file);
}

TEST_P(WeightFormat, PlanesAreAligned) {
  const Dtype dtype = GetParam();
  for (std::int64_t blocks = 1; blocks < 40; ++blocks) {
    const RowLayout layout = row_layout(dtype, blocks * block_size(dtype));
    EXPECT_EQ(layout.high % kRowAlignment, 0);
    EXPECT_EQ(layout.scales % kRowAlignment, 0);
    EXPECT_EQ(layout.supers % kRowAlignment, 0);
    EXPECT_EQ(layout.bytes % kRowAlignment, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, WeightFormat, testing::ValuesIn(all_dtypes()),
                         [](const auto& tested) { return std::string(name(tested.param)); });

}  // namespace
}  // namespace sedpa::cuda
