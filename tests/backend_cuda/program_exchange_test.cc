// Where numbers stand on their way from phase to phase of a decode program. No GPU is needed.
#include "sedpa/backend/cuda/program_exchange.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>
#include <vector>

namespace sedpa::cuda {
namespace {

constexpr std::int32_t kBefore = ProgramExchange::kBefore;
alignas(128) float memory[4096];

TEST(ProgramExchange, NumbersAreFoundWhereTheyWereSent) {
  ProgramExchange exchange;
  EXPECT_EQ(exchange.find(memory, 64), kBefore);
  const std::int32_t place = exchange.send(memory, 64);
  EXPECT_EQ(exchange.find(memory, 64), place);
  EXPECT_EQ(exchange.find(memory + 16, 8), place + 16);
  EXPECT_EQ(exchange.find(memory + 64, 8), kBefore);
  EXPECT_FALSE(exchange.find(memory + 60, 8).has_value());
}

TEST(ProgramExchange, RowsSentOneAfterTheOtherAreOneRow) {
  // Query, key and value may be products of their own, and be read as one row.
  ProgramExchange exchange;
  const std::int32_t place = exchange.send(memory, 40);
  exchange.send(memory + 40, 8);
  exchange.send(memory + 48, 8);
  EXPECT_EQ(exchange.find(memory, 56), place);
}

TEST(ProgramExchange, ALaterPhaseTakesTheMemoryButNotThePlace) {
  ProgramExchange exchange;
  const std::int32_t first = exchange.send(memory, 64);
  const std::int32_t second = exchange.send(memory, 64);
  EXPECT_GE(second, first + 64);
  EXPECT_EQ(exchange.find(memory, 64), second);
  EXPECT_FALSE(exchange.lasts(first));
  EXPECT_TRUE(exchange.lasts(second));
}

TEST(ProgramExchange, ALaunchFindsInMemoryWhatTheOnesBeforeSent) {
  ProgramExchange exchange;
  const std::int32_t first = exchange.send(memory, 64);
  exchange.end_launch();
  EXPECT_EQ(exchange.find(memory, 64), kBefore);
  EXPECT_GE(exchange.send(memory, 64), first + 64);
}

TEST(ProgramExchange, QuadsInMemoryAreQuadsInTheExchange) {
  ProgramExchange exchange;
  for (const std::int64_t at : {0, 1, 6, 100, 203}) {
    EXPECT_EQ(exchange.send(memory + at, 8) % 4, at % 4);
  }
}

// Against a map from every address to its place.
TEST(ProgramExchange, AnyWritesAndReads) {
  std::mt19937 random(1);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int trial = 0; trial < 300; ++trial) {
    ProgramExchange exchange;
    std::map<int, std::int32_t> places;  // of the numbers, by their address
    std::map<std::int32_t, std::vector<std::int32_t>> sent;
    for (int i = 0; i < 12; ++i) {
      const int begin = below(40);
      const int count = 1 + below(20);
      const std::int32_t place = exchange.send(memory + begin, count);
      for (int k = 0; k < count; ++k) {
        for (const auto& [address, other] : places) EXPECT_NE(other, place + k);
        sent[place].push_back(place + k);
      }
      for (int k = 0; k < count; ++k) places[begin + k] = place + k;
    }
    for (const auto& [place, numbers] : sent) {
      bool lasts = false;
      for (const std::int32_t number : numbers) {
        for (const auto& [address, there] : places) lasts |= there == number;
      }
      EXPECT_EQ(exchange.lasts(place), lasts);
    }
    for (int i = 0; i < 40; ++i) {
      const int begin = below(60);
      const int count = 1 + below(20);
      std::optional<std::int32_t> expected = kBefore;
      int there = 0;
      for (int k = 0; k < count; ++k) there += static_cast<int>(places.contains(begin + k));
      if (there > 0) {
        expected = places.contains(begin) ? std::optional(places[begin]) : std::nullopt;
        for (int k = 0; k < count && expected; ++k) {
          const auto found = places.find(begin + k);
          if (found == places.end() || found->second != *expected + k) expected = std::nullopt;
        }
      }
      EXPECT_EQ(exchange.find(memory + begin, count), expected);
    }
  }
}

}  // namespace
}  // namespace sedpa::cuda
