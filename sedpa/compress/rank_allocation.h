#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace sedpa {

/// A matrix that may be stored whole, or as two factors of one of some ranks.
struct RankChoices {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<std::int64_t> ranks;  // ascending; the factors of each are smaller than the matrix
  std::vector<double> losses;       // of each rank, >= 0; whole: 0

  /// Numbers stored at a rank; 0: whole.
  [[nodiscard]] std::int64_t numbers(std::int64_t rank) const {
    return rank == 0 ? rows * cols : rank * (rows + cols);
  }
};

struct Allocation {
  std::vector<std::int64_t> ranks;  // of each matrix; 0: whole
  std::int64_t numbers = 0;         // stored
  double loss = 0;                  // the sum
};

/// The ranks of least loss in all whose matrices together take no more than `budget` numbers: each
/// matrix takes what is best at one price for a number, the lowest price that meets the budget, and
/// what is left goes where it helps most (Shoham and Gersho 1988). Throws Error naming the smallest
/// budget that can be met when this one cannot.
[[nodiscard]] Allocation allocate_ranks(std::span<const RankChoices> matrices, std::int64_t budget);
/// The fewest numbers whose loss is at most `most`, by the same rule.
[[nodiscard]] Allocation allocate_within_loss(std::span<const RankChoices> matrices, double most);
/// The fewest numbers that can be reached.
[[nodiscard]] std::int64_t least_numbers(std::span<const RankChoices> matrices);

}  // namespace sedpa
