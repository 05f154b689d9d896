#pragma once
#include <cmath>
#include <cstdint>
#include <span>

namespace sedpa {

/// The index of the largest number, the lowest of equals; -1 when one is NaN or +inf, or none is
/// finite.
[[nodiscard]] inline std::int32_t argmax(std::span<const float> numbers) {
  std::int64_t best = -1;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const float number = numbers[i];
    if (std::isnan(number) || number == INFINITY) return -1;
    if (std::isfinite(number) && (best < 0 || number > numbers[static_cast<std::size_t>(best)])) {
      best = static_cast<std::int64_t>(i);
    }
  }
  return static_cast<std::int32_t>(best);
}

}  // namespace sedpa
