#include "sedpa/backend/cpu/panel_format.h"

#include <gtest/gtest.h>

#include "sedpa/backend/cpu/weights.h"
#include "sedpa/core/error.h"
#include "tests/backend_cpu/random_rows.h"

namespace sedpa::test {
namespace {

class PanelFormat : public testing::TestWithParam<Dtype> {};

// What is packed and taken out again is what format says the file's row holds, to the bit.
TEST_P(PanelFormat, RowsComeBackExactly) {
  const Dtype dtype = GetParam();
  const std::int64_t cols = cpu::is_quantized(dtype) ? 512 : 37;
  ThreadPool pool(2);
  cpu::PageArena arena;
  const RandomMatrix matrix = random_matrix(dtype, 37, cols, 1);
  const MatrixSource source = matrix.source();
  const Weight weight = cpu::make_weight({&source, 1}, Compute::fast, pool, arena);
  EXPECT_EQ(weight.bytes, cpu::band_bytes(dtype, 37, cols, Compute::fast));
  std::vector<float> row(static_cast<std::size_t>(cols));
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    cpu::read_row(weight, i, row.data());
    for (std::int64_t k = 0; k < cols; ++k) {
      ASSERT_EQ(row[static_cast<std::size_t>(k)],
                matrix.numbers[static_cast<std::size_t>(i * cols + k)])
          << name(dtype) << " row " << i << " column " << k;
    }
  }
}

TEST_P(PanelFormat, TakesTheBytesOfTheFile) {
  const Dtype dtype = GetParam();
  const std::size_t packed = cpu::band_bytes(dtype, 64, 1024, Compute::fast);
  const auto file = static_cast<std::size_t>(64 * row_bytes(dtype, 1024));
  if (dtype == Dtype::q4_k || dtype == Dtype::q5_k) {
    EXPECT_EQ(packed, file + 64 * 1024 / 64);  // 6-bit scales become bytes
  } else {
    EXPECT_EQ(packed, file);
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, PanelFormat, testing::ValuesIn(all_dtypes()),
                         [](const auto& tested) { return std::string(name(tested.param)); });

TEST(Weights, BandsOfOneTypeJoinAndOthersStandApart) {
  ThreadPool pool(1);
  cpu::PageArena arena;
  const RandomMatrix a = random_matrix(Dtype::q4_1, 32, 64, 1);
  const RandomMatrix b = random_matrix(Dtype::q4_1, 10, 64, 2);
  const RandomMatrix c = random_matrix(Dtype::q4_1, 20, 64, 3);
  const RandomMatrix d = random_matrix(Dtype::f16, 3, 64, 4);
  const MatrixSource sources[] = {a.source(), b.source(), c.source(), d.source()};
  const Weight weight = cpu::make_weight(sources, Compute::fast, pool, arena);
  ASSERT_EQ(weight.bands.size(), 3U);
  EXPECT_EQ(weight.rows, 65);
  EXPECT_EQ(weight.bands[0].rows, 42);
  EXPECT_EQ(weight.bands[1].first_row, 42);
  std::size_t planned = 0;
  for (const MatrixSource& source : sources) {
    planned += cpu::band_bytes(source.dtype, source.rows, source.cols, Compute::fast);
  }
  EXPECT_EQ(weight.bytes, planned);
  std::vector<float> row(64);
  cpu::read_row(weight, 41, row.data());
  EXPECT_TRUE(std::equal(row.begin(), row.end(), b.numbers.begin() + 9 * 64));
  cpu::read_row(weight, 42, row.data());
  EXPECT_TRUE(std::equal(row.begin(), row.end(), c.numbers.begin()));
  cpu::read_row(weight, 64, row.data());
  EXPECT_TRUE(std::equal(row.begin(), row.end(), d.numbers.begin() + 2 * 64));
  EXPECT_THROW(cpu::read_row(weight, 65, row.data()), Error);
}

TEST(Weights, RefusesWhatDoesNotFit) {
  EXPECT_THROW((void)cpu::band_bytes(Dtype::q4_k, 16, 128, Compute::fast), Error);
  EXPECT_THROW((void)cpu::band_bytes(Dtype::q8_0, 16, 33, Compute::f32), Error);
  EXPECT_THROW((void)cpu::band_bytes(Dtype::f32, std::int64_t{1} << 40, std::int64_t{1} << 40,
                                     Compute::fast),
               Error);
  ThreadPool pool(1);
  cpu::PageArena arena;
  const RandomMatrix a = random_matrix(Dtype::f32, 3, 64, 1);
  const RandomMatrix b = random_matrix(Dtype::f32, 3, 32, 1);
  const MatrixSource sources[] = {a.source(), b.source()};
  EXPECT_THROW((void)cpu::make_weight(sources, Compute::fast, pool, arena), Error);
}

}  // namespace
}  // namespace sedpa::test
