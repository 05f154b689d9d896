// Dense algebra in f64 on every backend that has it. (LAPACK's, which compression uses elsewhere,
// is held to the same in tests/compress.)
#include <gtest/gtest.h>

#include <functional>

#include "tests/ops_conformance/backends.h"
#include "tests/support/dense_laws.h"

namespace sedpa::conformance {
namespace {

void on_every_backend(const std::function<void(Ops&, DenseOps&)>& expect) {
  bool any = false;
  for (const Backend& backend : backends()) {
    const auto ops = backend.make();
    if (ops->dense() == nullptr) continue;
    SCOPED_TRACE(backend.name);
    any = true;
    expect(*ops, *ops->dense());
  }
  if (!any) GTEST_SKIP() << "no backend that can run here has dense algebra of its own";
}

TEST(DenseOps, CopiesRoundOnlyToF32) { on_every_backend(test::expect_dense_copies); }

TEST(DenseOps, ProductsAreThoseOfPlainLoops) { on_every_backend(test::expect_dense_products); }

TEST(DenseOps, SolutionsSolve) { on_every_backend(test::expect_dense_solutions); }

TEST(DenseOps, EigenvectorsAreThoseOfTheMatrixAndValuesLapacks) {
  on_every_backend(
      [](Ops& ops, DenseOps& dense) { test::expect_dense_eigenvectors(ops, dense, 1100); });
}

TEST(DenseOps, RefusesWhatItCannotDo) { on_every_backend(test::expect_dense_refusals); }

}  // namespace
}  // namespace sedpa::conformance
