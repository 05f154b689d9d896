#pragma once
// How many numbers the keys and values of a layer's heads keep.
#include <cstdint>
#include <span>
#include <vector>

namespace sedpa {

/// Widths are multiples of so many numbers (docs/formats.md).
inline constexpr std::int32_t kThinGrain = 16;

/// What a head of `dim` numbers may be cut to, descending: three quarters, a half and a quarter of
/// it, rounded to multiples of kThinGrain; those that are no cut are left out.
[[nodiscard]] std::vector<std::int32_t> thin_widths(std::int32_t dim);

/// One thing to choose a width for: the keys, or the values, of a layer's heads.
struct WidthChoices {
  std::int64_t heads = 0;            // that get the width
  std::vector<std::int32_t> widths;  // descending, the whole first
  std::vector<double> losses;        // of each width
};

/// Numbers of a token that the choices can save at most.
[[nodiscard]] std::int64_t most_saved(std::span<const WidthChoices> choices);

/// The widths, one of each choice, that save at least `numbers` of a token and whose losses are
/// least together: dynamic programming over multiples of kThinGrain. numbers <= most_saved.
[[nodiscard]] std::vector<std::int32_t> allocate_widths(std::span<const WidthChoices> choices,
                                                        std::int64_t numbers);

}  // namespace sedpa
