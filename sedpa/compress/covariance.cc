#include "sedpa/compress/covariance.h"

namespace sedpa {
namespace {

/// Of the mean diagonal.
constexpr double kRidge = 1e-3;

}  // namespace

std::span<const float> CovarianceReader::add(Rows rows, Matrix& sum) {
  numbers_.resize(static_cast<std::size_t>(rows.rows * rows.cols));
  ops_.read(rows, numbers_.data());
  rows_.rows = rows.rows;
  rows_.cols = rows.cols;
  rows_.numbers.assign(numbers_.begin(), numbers_.end());
  add_products(rows_, sum);
  return numbers_;
}

void regularize(Matrix& covariance) {
  const std::int64_t n = covariance.rows;
  double trace = 0;
  for (std::int64_t i = 0; i < n; ++i) trace += covariance.at(i, i);
  // Where nothing arrived at all, every direction counts alike.
  const double ridge = trace > 0 ? kRidge * trace / static_cast<double>(n) : 1;
  for (std::int64_t i = 0; i < n; ++i) covariance.at(i, i) += ridge;
}

}  // namespace sedpa
