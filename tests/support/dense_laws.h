#pragma once
// What every implementation of ops/dense_ops.h must do, held against plain loops and LAPACK.
#include "sedpa/ops/dense_ops.h"
#include "sedpa/ops/ops.h"

namespace sedpa::test {

/// Each is a set of GoogleTest expectations. `dense` works in the memory of `ops`.
void expect_dense_copies(Ops& ops, DenseOps& dense);
void expect_dense_products(Ops& ops, DenseOps& dense);
void expect_dense_solutions(Ops& ops, DenseOps& dense);
/// Matrices of up to `largest` x `largest`.
void expect_dense_eigenvectors(Ops& ops, DenseOps& dense, std::int64_t largest);
void expect_dense_refusals(Ops& ops, DenseOps& dense);

}  // namespace sedpa::test
