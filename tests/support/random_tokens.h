#pragma once
#include <cstdint>
#include <random>
#include <vector>

namespace sedpa::test {

/// `count` ids below `vocabulary`.
inline std::vector<std::int32_t> random_tokens(std::int64_t count, std::int32_t vocabulary,
                                               std::uint32_t seed = 17) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::int32_t& token : tokens) {
    token = static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocabulary));
  }
  return tokens;
}

}  // namespace sedpa::test
