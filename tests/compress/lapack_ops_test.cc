// LAPACK under the interface that backends have for dense algebra, and what chooses between them.
#include "sedpa/compress/lapack_ops.h"

#include <gtest/gtest.h>

#include "tests/compress/host_algebra.h"
#include "tests/compress/random_matrix.h"
#include "tests/support/dense_laws.h"

namespace sedpa::test {
namespace {

struct LapackOpsTest : ::testing::Test {
  std::unique_ptr<Ops> ops = make_cpu_ops({});
  std::unique_ptr<DenseOps> dense = make_lapack_ops(*ops);
};

TEST_F(LapackOpsTest, CopiesRoundOnlyToF32) { expect_dense_copies(*ops, *dense); }

TEST_F(LapackOpsTest, ProductsAreThoseOfPlainLoops) { expect_dense_products(*ops, *dense); }

TEST_F(LapackOpsTest, SolutionsSolve) { expect_dense_solutions(*ops, *dense); }

TEST_F(LapackOpsTest, EigenvectorsAreThoseOfTheMatrix) {
  expect_dense_eigenvectors(*ops, *dense, 300);
}

TEST_F(LapackOpsTest, RefusesWhatItCannotDo) { expect_dense_refusals(*ops, *dense); }

TEST(Algebra, TakesMatricesToTheBackendAndBack) {
  const Algebra& algebra = host_algebra();
  const Matrix m = random_matrix(9, 14, 1);
  EXPECT_EQ(algebra.to_host(algebra.to_backend(m)).numbers, m.numbers);
  const Matrix part = algebra.to_host(algebra.to_backend(m).columns(3, 5));
  EXPECT_EQ(part.numbers, columns(m, 3, 5).numbers);

  // More rows than are copied at once.
  const std::int64_t rows = 3000;
  const std::int64_t cols = 700;
  std::vector<float> numbers(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i % 8191) / 8;
  const MatrixSource source{.dtype = Dtype::f32,
                            .rows = rows,
                            .cols = cols,
                            .read = [&](std::int64_t row, std::int64_t count, std::byte* out) {
                              std::copy_n(
                                  reinterpret_cast<const std::byte*>(numbers.data() + row * cols),
                                  static_cast<std::size_t>(count * cols) * sizeof(float), out);
                            }};
  EXPECT_EQ(algebra.floats(algebra.load(source)), numbers);
}

}  // namespace
}  // namespace sedpa::test
