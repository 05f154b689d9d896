#include "sedpa/compress/rank_allocation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

double loss_of(const RankChoices& matrix, std::size_t choice) {
  return choice == matrix.ranks.size() ? 0 : matrix.losses[choice];
}
std::int64_t rank_of(const RankChoices& matrix, std::size_t choice) {
  return choice == matrix.ranks.size() ? 0 : matrix.ranks[choice];
}

/// What each matrix takes when a number costs `price`.
Allocation at_price(std::span<const RankChoices> matrices, double price) {
  Allocation all;
  for (const RankChoices& matrix : matrices) {
    std::size_t best = matrix.ranks.size();  // whole
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i <= matrix.ranks.size(); ++i) {
      const double cost =
          loss_of(matrix, i) + price * static_cast<double>(matrix.numbers(rank_of(matrix, i)));
      if (cost < least) {
        least = cost;
        best = i;
      }
    }
    all.ranks.push_back(rank_of(matrix, best));
    all.numbers += matrix.numbers(all.ranks.back());
    all.loss += loss_of(matrix, best);
  }
  return all;
}

double loss_at(const RankChoices& matrix, std::int64_t rank) {
  const auto found = std::ranges::find(matrix.ranks, rank);
  return found == matrix.ranks.end()
             ? 0
             : matrix.losses[static_cast<std::size_t>(found - matrix.ranks.begin())];
}

/// Spends what the price left over, each time on the step that gains most for its numbers.
void spend(std::span<const RankChoices> matrices, std::int64_t budget, Allocation& all) {
  while (true) {
    double best_gain = 0;
    std::size_t best = matrices.size();
    std::int64_t best_rank = 0;
    for (std::size_t i = 0; i < matrices.size(); ++i) {
      const RankChoices& matrix = matrices[i];
      const std::int64_t now = all.ranks[i];
      if (now == 0) continue;
      const auto above = std::ranges::upper_bound(matrix.ranks, now);
      for (const std::int64_t next : {above == matrix.ranks.end() ? 0 : *above, std::int64_t{0}}) {
        const std::int64_t more = matrix.numbers(next) - matrix.numbers(now);
        if (more <= 0 || all.numbers + more > budget) continue;
        const double gain =
            (loss_at(matrix, now) - loss_at(matrix, next)) / static_cast<double>(more);
        if (gain > best_gain) {
          best_gain = gain;
          best = i;
          best_rank = next;
        }
      }
    }
    if (best == matrices.size()) return;
    const RankChoices& matrix = matrices[best];
    all.numbers += matrix.numbers(best_rank) - matrix.numbers(all.ranks[best]);
    all.loss += loss_at(matrix, best_rank) - loss_at(matrix, all.ranks[best]);
    all.ranks[best] = best_rank;
  }
}

constexpr double kLowestPrice = 1e-30;
constexpr double kHighestPrice = 1e30;
constexpr int kHalvings = 200;

/// The allocation at the lowest price (or, for `dearest`, the highest) that `accepts`, between two
/// prices of which the outer one is accepted.
template <class Accepts>
Allocation search(std::span<const RankChoices> matrices, bool dearest, const Accepts& accepts) {
  double good = std::log(dearest ? kLowestPrice : kHighestPrice);
  double bad = std::log(dearest ? kHighestPrice : kLowestPrice);
  Allocation found = at_price(matrices, std::exp(good));
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (good + bad) / 2;
    Allocation here = at_price(matrices, std::exp(middle));
    if (accepts(here)) {
      good = middle;
      found = std::move(here);
    } else {
      bad = middle;
    }
  }
  return found;
}

}  // namespace

std::int64_t least_numbers(std::span<const RankChoices> matrices) {
  std::int64_t numbers = 0;
  for (const RankChoices& matrix : matrices) {
    numbers += matrix.numbers(matrix.ranks.empty() ? 0 : matrix.ranks.front());
  }
  return numbers;
}

Allocation allocate_ranks(std::span<const RankChoices> matrices, std::int64_t budget) {
  const std::int64_t least = least_numbers(matrices);
  if (budget < least) {
    fail("{} numbers are allowed, but the smallest ranks take {}", budget, least);
  }
  Allocation found =
      search(matrices, false, [&](const Allocation& a) { return a.numbers <= budget; });
  spend(matrices, budget, found);
  return found;
}

Allocation allocate_within_loss(std::span<const RankChoices> matrices, double most) {
  return search(matrices, true, [&](const Allocation& a) { return a.loss <= most; });
}

}  // namespace sedpa
