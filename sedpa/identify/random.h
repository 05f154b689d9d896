#pragma once
#include <cstdint>
#include <random>

namespace sedpa {

/// Seeded choices that are the same with every compiler: the standard fixes the numbers that
/// std::mt19937_64 gives, but not what its distributions make of them.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  /// A number in [0, bound), bound >= 1. The bias of the remainder, bound / 2^64, does not matter
  /// here.
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(bound));
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace sedpa
