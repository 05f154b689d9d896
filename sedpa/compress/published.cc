#include "sedpa/compress/published.h"

#include <algorithm>
#include <cmath>

#include "sedpa/core/fail.h"
#include "sedpa/model/weight_source.h"

namespace sedpa {
namespace {

bool has_retrieval_heads(const HeadPlan& heads, std::size_t layer) {
  return heads.layers[layer].retrieval > 0;
}

/// The smallest rank that leaves out no more than `most` and is at least `floor`; 0: none.
std::int64_t smallest_rank(const RankChoices& matrix, double most, std::int64_t floor,
                           std::int64_t ceiling) {
  for (std::size_t i = 0; i < matrix.ranks.size(); ++i) {
    if (matrix.ranks[i] > ceiling) break;
    if (matrix.ranks[i] >= floor && matrix.losses[i] <= most) return matrix.ranks[i];
  }
  return 0;
}

void take(const RankChoices& matrix, std::int64_t rank, Allocation& all) {
  all.ranks.push_back(rank);
  all.numbers += matrix.numbers(rank);
}

Allocation scaled(std::span<const RankChoices> choices, const HeadPlan& heads,
                  const PublishedLoss& most, double scale) {
  Allocation all;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const double share =
        has_retrieval_heads(heads, i / kAttentionProjections) ? most.retrieving : most.streaming;
    take(choices[i],
         smallest_rank(choices[i], scale * share, 0, std::max(choices[i].rows, choices[i].cols)),
         all);
  }
  return all;
}

}  // namespace

Allocation published_ranks(std::span<const RankChoices> choices, const HeadPlan& heads,
                           std::int64_t width, const PublishedLoss& most) {
  const std::size_t first = heads.layers.size() / 4;
  Allocation all;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const RankChoices& matrix = choices[i];
    const std::size_t layer = i / kAttentionProjections;
    const LayerHeads& of = heads.layers[layer];
    const bool left_alone =
        layer < first || 2 * static_cast<std::size_t>(of.retrieval) >= of.order.size();
    const double share = has_retrieval_heads(heads, layer) ? most.retrieving : most.streaming;
    const auto ceiling =
        static_cast<std::int64_t>(0.85 * static_cast<double>(std::max(matrix.rows, matrix.cols)));
    take(matrix, left_alone ? 0 : smallest_rank(matrix, share, width / 4, ceiling), all);
  }
  return all;
}

Allocation published_ranks_within(std::span<const RankChoices> choices, const HeadPlan& heads,
                                  std::int64_t budget, const PublishedLoss& most) {
  const double all_lost = 1 / std::min(most.retrieving, most.streaming);
  const Allocation least = scaled(choices, heads, most, all_lost);
  if (least.numbers > budget) {
    fail("{} numbers are allowed, but the smallest ranks take {}", budget, least.numbers);
  }
  constexpr int kHalvings = 60;
  double low = 0;  // takes too many numbers, or is the answer of all
  double high = all_lost;
  Allocation found = least;
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    Allocation here = scaled(choices, heads, most, middle);
    if (here.numbers <= budget) {
      high = middle;
      found = std::move(here);
    } else {
      low = middle;
    }
  }
  return found;
}

}  // namespace sedpa
