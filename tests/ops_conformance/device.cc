#include "tests/ops_conformance/device.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sedpa::conformance {
namespace {

constexpr std::uint32_t kPoison = 0x7fc5edfa;  // a quiet NaN that no arithmetic makes

double worst_ratio = 0;

}  // namespace

DeviceRows::DeviceRows(Ops& ops, std::int64_t rows, std::int64_t cols, std::int64_t guard)
    : ops_(ops), rows_(rows), cols_(cols), stride_(cols + guard) {
  buffer_ = ops.allocate(static_cast<std::size_t>((rows + 2) * stride_) * sizeof(float));
  poison();
}

Rows DeviceRows::view(std::int64_t rows) const {
  return {.data = buffer_.floats() + stride_, .rows = rows, .cols = cols_, .stride = stride_};
}

void DeviceRows::write(std::span<const float> values) {
  std::vector<std::uint32_t> all(static_cast<std::size_t>((rows_ + 2) * stride_), kPoison);
  for (std::int64_t i = 0; i < rows_; ++i) {
    std::memcpy(all.data() + (i + 1) * stride_, values.data() + i * cols_,
                static_cast<std::size_t>(cols_) * sizeof(float));
  }
  ops_.copy_from_host(reinterpret_cast<const std::byte*>(all.data()), buffer_.data,
                      all.size() * sizeof(float));
}

void DeviceRows::poison() {
  const std::vector<std::uint32_t> all(static_cast<std::size_t>((rows_ + 2) * stride_), kPoison);
  ops_.copy_from_host(reinterpret_cast<const std::byte*>(all.data()), buffer_.data,
                      all.size() * sizeof(float));
}

std::vector<float> DeviceRows::read(std::int64_t rows) const {
  std::vector<float> values(static_cast<std::size_t>(rows * cols_));
  ops_.read(view(rows), values.data());
  return values;
}

std::vector<std::uint32_t> DeviceRows::bits() const {
  std::vector<std::uint32_t> all(static_cast<std::size_t>((rows_ + 2) * stride_));
  ops_.copy_to_host(buffer_.data, reinterpret_cast<std::byte*>(all.data()),
                    all.size() * sizeof(float));
  return all;
}

std::string DeviceRows::damage(std::int64_t rows) const {
  const auto all = bits();
  for (std::int64_t i = 0; i < rows_ + 2; ++i) {
    const bool inside = i >= 1 && i <= rows;
    for (std::int64_t j = inside ? cols_ : 0; j < stride_; ++j) {
      if (all[static_cast<std::size_t>(i * stride_ + j)] == kPoison) continue;
      return fmt::format("row {}, column {} was written; the view has {} rows of {} columns", i - 1,
                         j, rows, cols_);
    }
  }
  return "";
}

void run(Ops& ops, std::int64_t tokens, const std::function<void()>& body) {
  ops.run({.tokens = tokens, .logit_rows = tokens}, body);
}

std::vector<float> call_checked(DeviceRows& out, std::int64_t rows,
                                const std::function<void()>& operation,
                                const std::function<void()>& before) {
  std::vector<float> first;
  for (int repeat = 0; repeat < 2; ++repeat) {
    out.poison();
    if (before) before();
    operation();
    const auto values = out.read(rows);
    EXPECT_EQ(out.damage(rows), "");
    if (repeat == 0) {
      first = values;
    } else {
      EXPECT_EQ(std::memcmp(first.data(), values.data(), values.size() * sizeof(float)), 0)
          << "a second run gives other bits";
    }
  }
  return first;
}

std::vector<float> run_checked(Ops& ops, DeviceRows& out, std::int64_t rows,
                               const std::function<void()>& operation,
                               const std::function<void()>& before) {
  return call_checked(
      out, rows, [&] { run(ops, rows, operation); }, before);
}

void expect_within(std::span<const float> actual, std::int64_t rows, const Matrix& expected,
                   const Matrix& bound) {
  std::int64_t outside = 0;
  std::int64_t worst = -1;
  double worst_excess = 0;  // error / bound of the worst number
  for (std::int64_t i = 0; i < rows * expected.cols; ++i) {
    const double error = std::abs(actual[i] - expected.data[i]);
    double ratio = bound.data[i] > 0 ? error / bound.data[i] : (error > 0 ? INFINITY : 0);
    if (std::isnan(error) || std::isnan(bound.data[i])) ratio = INFINITY;
    if (ratio > 1) ++outside;
    if (worst < 0 || ratio > worst_excess) {
      worst = i;
      worst_excess = ratio;
    }
  }
  worst_ratio = std::max(worst_ratio, worst_excess);
  EXPECT_EQ(outside, 0) << fmt::format(
      "of {} numbers; worst at row {}, column {}: {} instead of {}, bound {}", rows * expected.cols,
      worst / expected.cols, worst % expected.cols, actual[static_cast<std::size_t>(worst)],
      expected.data[static_cast<std::size_t>(worst)], bound.data[static_cast<std::size_t>(worst)]);
}

double take_worst_ratio() { return std::exchange(worst_ratio, 0.0); }

}  // namespace sedpa::conformance
