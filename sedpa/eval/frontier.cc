#include "sedpa/eval/frontier.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

namespace sedpa {

std::vector<std::size_t> pareto_set(std::span<const FrontierPoint> points) {
  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::erase_if(order, [&](std::size_t i) {
    return std::isnan(points[i].loss) || std::isnan(points[i].cost);
  });
  const auto key = [&](std::size_t i) { return std::tuple(points[i].cost, points[i].loss, i); };
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
  std::vector<std::size_t> best;
  for (const std::size_t i : order) {
    // What stands before costs no more: it is beaten only by a smaller loss, or as its equal.
    const bool equal = !best.empty() && points[best.back()].loss == points[i].loss &&
                       points[best.back()].cost == points[i].cost;
    if (best.empty() || equal || points[i].loss < points[best.back()].loss) best.push_back(i);
  }
  return best;
}

std::optional<std::size_t> cheapest_within(std::span<const FrontierPoint> points,
                                           double most_loss) {
  for (const std::size_t i : pareto_set(points)) {
    if (points[i].loss <= most_loss) return i;
  }
  return std::nullopt;
}

}  // namespace sedpa
