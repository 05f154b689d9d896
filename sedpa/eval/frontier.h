#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace sedpa {

/// One way to run a model: what it loses, and what it costs. Less is better of both.
struct FrontierPoint {
  double loss = 0;
  double cost = 0;
};

/// The points that none beats (Pareto's set): no other is at least as good in both and better in
/// one. By ascending cost; equal points stand together, in their own order. Points with a NaN are
/// not among them.
[[nodiscard]] std::vector<std::size_t> pareto_set(std::span<const FrontierPoint> points);

/// The cheapest point that loses no more than `most_loss`, of equally cheap ones that with the
/// least loss; none when all lose more.
[[nodiscard]] std::optional<std::size_t> cheapest_within(std::span<const FrontierPoint> points,
                                                         double most_loss);

}  // namespace sedpa
