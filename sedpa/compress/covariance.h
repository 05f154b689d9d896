#pragma once
#include "sedpa/compress/linear_algebra.h"

namespace sedpa {

/// Makes a covariance that is not of full rank usable: adds a small share of its mean diagonal to
/// the diagonal, so that where the text shows nothing a matrix counts by itself.
void regularize(DenseOps& dense, const DenseMatrix& covariance);

}  // namespace sedpa
