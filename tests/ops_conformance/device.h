#pragma once
// Matrices in a backend's memory that notice who touches what: every number starts as one NaN of a
// known bit pattern, before, between and after the rows of the view.
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tests/ops_conformance/bounds.h"

namespace sedpa::conformance {

class DeviceRows {
 public:
  /// `rows` x `cols` inside a larger matrix: `guard` columns after each row, one row before and one
  /// after. All of it poisoned.
  DeviceRows(Ops& ops, std::int64_t rows, std::int64_t cols, std::int64_t guard = 5);

  [[nodiscard]] Rows view() const { return view(rows_); }
  /// The first rows only.
  [[nodiscard]] Rows view(std::int64_t rows) const;
  /// Values [rows, cols] of the view; what lies outside stays poison.
  void write(std::span<const float> values);
  void poison();
  /// The first `rows` rows as the backend's `read` gives them, [rows, cols].
  [[nodiscard]] std::vector<float> read(std::int64_t rows) const;
  /// Empty when everything outside the first `rows` rows of the view is still poison; otherwise
  /// where the first number stands that is not.
  [[nodiscard]] std::string damage(std::int64_t rows) const;

 private:
  [[nodiscard]] std::vector<std::uint32_t> bits() const;

  Ops& ops_;
  std::int64_t rows_;
  std::int64_t cols_;
  std::int64_t stride_;
  Buffer buffer_;  // [rows + 2, stride]
};

/// Runs `body` as one step of `tokens` tokens.
void run(Ops& ops, std::int64_t tokens, const std::function<void()>& body);

/// Poisons `out`, runs `operation`, which must write its first `rows` rows, all of them and nothing
/// else, and the same bits when it runs again. `before`, when given, restores what the operation
/// changes in place. Returns [rows, cols].
std::vector<float> run_checked(Ops& ops, DeviceRows& out, std::int64_t rows,
                               const std::function<void()>& operation,
                               const std::function<void()>& before = nullptr);

/// The same for an operation that is no part of a step.
std::vector<float> call_checked(DeviceRows& out, std::int64_t rows,
                                const std::function<void()>& operation,
                                const std::function<void()>& before = nullptr);

/// Fails the test when a number of `actual` [rows, expected.cols] is farther from `expected` than
/// `bound`, or is no number; names the worst place.
void expect_within(std::span<const float> actual, std::int64_t rows, const Matrix& expected,
                   const Matrix& bound);

/// The largest error over bound that expect_within has met since the last call.
double take_worst_ratio();

}  // namespace sedpa::conformance
