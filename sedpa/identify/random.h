#pragma once
#include <cstdint>
#include <initializer_list>
#include <random>
#include <utility>
#include <vector>

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

  template <class T>
  void shuffle(std::vector<T>& items) {
    for (std::size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[static_cast<std::size_t>(below(static_cast<std::int64_t>(i)))]);
    }
  }

 private:
  std::mt19937_64 engine_;
};

/// One seed out of several numbers, spread over all seeds by SplitMix64's finish (Steele et al.
/// 2014).
[[nodiscard]] inline std::uint64_t mix_seed(std::initializer_list<std::uint64_t> numbers) {
  std::uint64_t mixed = 0;
  for (const std::uint64_t number : numbers) {
    std::uint64_t x = (mixed ^ number) + 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    mixed = x ^ (x >> 31);
  }
  return mixed;
}

}  // namespace sedpa
