#include "sedpa/compress/covariance.h"

namespace sedpa {
namespace {

/// Of the mean diagonal.
constexpr double kRidge = 1e-3;

}  // namespace

void CovarianceReader::read(Rows rows, Matrix& to) {
  staging_.resize(static_cast<std::size_t>(rows.rows * rows.cols));
  ops_.read(rows, staging_.data());
  to.rows = rows.rows;
  to.cols = rows.cols;
  to.numbers.assign(staging_.begin(), staging_.end());
}

void CovarianceReader::add(Rows rows, Covariance& sum) {
  read(rows, arriving_);
  add_products(arriving_, arriving_, sum.arriving);
  sum.crossed = sum.arriving;
}

void CovarianceReader::read_original(Rows rows) { read(rows, original_); }

std::span<const float> CovarianceReader::add_arriving(Rows rows, Covariance& sum) {
  read(rows, arriving_);
  add_products(arriving_, arriving_, sum.arriving);
  add_products(original_, arriving_, sum.crossed);
  return staging_;
}

void regularize(Covariance& sum) {
  const std::int64_t n = sum.arriving.rows;
  double trace = 0;
  for (std::int64_t i = 0; i < n; ++i) trace += sum.arriving.at(i, i);
  // Where nothing arrived at all, every direction counts alike.
  const double ridge = trace > 0 ? kRidge * trace / static_cast<double>(n) : 1;
  for (std::int64_t i = 0; i < n; ++i) {
    sum.arriving.at(i, i) += ridge;
    sum.crossed.at(i, i) += ridge;
  }
}

}  // namespace sedpa
