#include "sedpa/eval/frontier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace sedpa {
namespace {

bool beats(const FrontierPoint& a, const FrontierPoint& b) {
  return a.loss <= b.loss && a.cost <= b.cost && (a.loss < b.loss || a.cost < b.cost);
}

// Few values, so that many points are equal in one number or both.
std::vector<FrontierPoint> some_points(std::mt19937_64& random) {
  std::vector<FrontierPoint> points(random() % 30);
  const std::uint64_t values = 1 + random() % 12;
  for (FrontierPoint& point : points) {
    point = {static_cast<double>(random() % values) - 2, static_cast<double>(random() % values)};
  }
  return points;
}

// By the definition itself.
TEST(Frontier, HoldsWhatNothingBeats) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 2000; ++round) {
    const std::vector<FrontierPoint> points = some_points(random);
    const std::vector<std::size_t> found = pareto_set(points);
    for (std::size_t i = 0; i < points.size(); ++i) {
      const bool beaten =
          std::any_of(points.begin(), points.end(),
                      [&](const FrontierPoint& other) { return beats(other, points[i]); });
      EXPECT_EQ(std::count(found.begin(), found.end(), i), beaten ? 0 : 1);
    }
    EXPECT_TRUE(std::is_sorted(found.begin(), found.end(), [&](std::size_t a, std::size_t b) {
      return points[a].cost < points[b].cost;
    }));
  }
}

TEST(Frontier, NamesTheCheapestWithinALoss) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 2000; ++round) {
    const std::vector<FrontierPoint> points = some_points(random);
    const double most = static_cast<double>(random() % 14) - 2.5;
    const std::optional<std::size_t> found = cheapest_within(points, most);
    for (const FrontierPoint& point : points) {
      if (point.loss > most) continue;
      ASSERT_TRUE(found);
      EXPECT_LE(points[*found].cost, point.cost);
      EXPECT_TRUE(points[*found].cost < point.cost || points[*found].loss <= point.loss);
    }
    EXPECT_TRUE(!found || points[*found].loss <= most);
  }
}

TEST(Frontier, LeavesOutWhatIsNoNumber) {
  const std::vector<FrontierPoint> points = {{NAN, 1}, {0, NAN}, {INFINITY, 0}, {1, 2}};
  EXPECT_EQ(pareto_set(points), (std::vector<std::size_t>{2, 3}));
  EXPECT_EQ(cheapest_within(points, 1), 3u);
  EXPECT_FALSE(cheapest_within(points, 0.5));
  EXPECT_TRUE(pareto_set({}).empty());
}

}  // namespace
}  // namespace sedpa
