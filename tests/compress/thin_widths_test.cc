#include "sedpa/compress/thin_widths.h"

#include <gtest/gtest.h>

#include <random>

#include "sedpa/core/error.h"

namespace sedpa::test {
namespace {

TEST(ThinWidths, AreQuartersInMultiplesOf16) {
  using Widths = std::vector<std::int32_t>;
  EXPECT_EQ(thin_widths(64), (Widths{48, 32, 16}));
  EXPECT_EQ(thin_widths(128), (Widths{96, 64, 32}));
  EXPECT_EQ(thin_widths(80), (Widths{64, 48, 16}));
  EXPECT_EQ(thin_widths(96), (Widths{80, 48, 32}));
  EXPECT_EQ(thin_widths(32), (Widths{16}));
}

// Every way to choose, one by one.
TEST(ThinWidths, AreTheBestThatMeetTheBudget) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20; ++round) {
    std::vector<WidthChoices> choices;
    for (int i = 0; i < 6; ++i) {
      WidthChoices choice{.heads = 1 + static_cast<std::int64_t>(random() % 3),
                          .widths = {64, 48, 32, 16},
                          .losses = {0}};
      for (int k = 0; k < 3; ++k) {
        choice.losses.push_back(static_cast<double>(random() % 1000));
      }
      choices.push_back(choice);
    }
    choices.push_back({.heads = 2, .widths = {64}, .losses = {0}});
    const auto count = [&](const std::vector<std::int32_t>& widths, double& loss) {
      std::int64_t saved = 0;
      loss = 0;
      for (std::size_t i = 0; i < choices.size(); ++i) {
        for (std::size_t k = 0; k < choices[i].widths.size(); ++k) {
          if (choices[i].widths[k] == widths[i]) loss += choices[i].losses[k];
        }
        saved += choices[i].heads * (64 - widths[i]);
      }
      return saved;
    };
    for (const std::int64_t wanted : {std::int64_t{0}, std::int64_t{1}, std::int64_t{100},
                                      std::int64_t{200}, most_saved(choices)}) {
      double best = 1e300;
      for (int code = 0; code < 4096; ++code) {
        std::vector<std::int32_t> widths;
        for (int i = 0; i < 6; ++i) widths.push_back(64 - 16 * (code >> (2 * i) & 3));
        widths.push_back(64);
        double loss = 0;
        if (count(widths, loss) >= wanted) best = std::min(best, loss);
      }
      double found = 0;
      EXPECT_GE(count(allocate_widths(choices, wanted), found), wanted);
      EXPECT_EQ(found, best);
    }
    EXPECT_THROW((void)allocate_widths(choices, most_saved(choices) + 1), Error);
  }
}

}  // namespace
}  // namespace sedpa::test
