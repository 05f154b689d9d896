#include "sedpa/compress/covariance.h"

namespace sedpa {
namespace {

/// Of the mean diagonal.
constexpr double kCovarianceRidge = 1e-3;

}  // namespace

void regularize(DenseOps& dense, const DenseMatrix& covariance) {
  std::vector<double> diagonal = dense.diagonal(covariance);
  double trace = 0;
  for (const double x : diagonal) trace += x;
  // Where nothing arrived at all, every direction counts alike.
  const double ridge =
      trace > 0 ? kCovarianceRidge * trace / static_cast<double>(diagonal.size()) : 1;
  for (double& x : diagonal) x += ridge;
  dense.set_diagonal(covariance, diagonal);
}

}  // namespace sedpa
