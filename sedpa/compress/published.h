#pragma once
// The published rule of SEDPA-S for ranks, from a matrix and an attention pattern alone.
#include <cstdint>
#include <span>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/compress/rank_allocation.h"

namespace sedpa {

/// Shares of the squared singular values that a cut leaves out, at most.
struct PublishedLoss {
  double retrieving = 0.02;  // of layers with a retrieval head
  double streaming = 0.05;   // of the others
};

/// The rule at its own point. `choices` [layers * 4] hold the shares of squared singular values
/// that ranks leave out. A quarter of the layers, from the first on, stays whole, and so does a
/// layer of which half of the heads or more retrieve; no rank is below a quarter of `width` or
/// above 0.85 of the matrix's larger side; factors that would be no smaller than their matrix are
/// not made.
[[nodiscard]] Allocation published_ranks(std::span<const RankChoices> choices,
                                         const HeadPlan& heads, std::int64_t width,
                                         const PublishedLoss& most = {});

/// The rule without floor and exceptions, both shares of loss scaled by one factor, the smallest
/// that meets `budget` numbers. Throws Error naming the smallest budget that can be met when this
/// one cannot.
[[nodiscard]] Allocation published_ranks_within(std::span<const RankChoices> choices,
                                                const HeadPlan& heads, std::int64_t budget,
                                                const PublishedLoss& most = {});

}  // namespace sedpa
