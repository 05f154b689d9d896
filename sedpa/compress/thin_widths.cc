#include "sedpa/compress/thin_widths.h"

#include <algorithm>
#include <limits>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"

namespace sedpa {

std::vector<std::int32_t> thin_widths(std::int32_t dim) {
  std::vector<std::int32_t> widths;
  for (const std::int32_t quarters : {3, 2, 1}) {
    const std::int32_t grains = (quarters * dim / 4 + kThinGrain / 2) / kThinGrain;
    const std::int32_t width = std::max(grains, 1) * kThinGrain;
    if (width < (widths.empty() ? dim : widths.back())) widths.push_back(width);
  }
  return widths;
}

std::int64_t most_saved(std::span<const WidthChoices> choices) {
  std::int64_t sum = 0;
  for (const WidthChoices& choice : choices) {
    sum += choice.heads * (choice.widths.front() - choice.widths.back());
  }
  return sum;
}

std::vector<std::int32_t> allocate_widths(std::span<const WidthChoices> choices,
                                          std::int64_t numbers) {
  if (numbers > most_saved(choices)) {
    fail("{} numbers of a token are to be saved, but {} can be", numbers, most_saved(choices));
  }
  const std::int64_t wanted =
      ceil_div(std::max<std::int64_t>(numbers, 0), std::int64_t{kThinGrain});
  const auto states =
      static_cast<std::size_t>(wanted + 1);  // grains saved, `wanted` or more as one
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> best(states, kNever);
  best[0] = 0;
  struct Taken {
    std::size_t from = 0;
    std::int32_t width = 0;
  };
  std::vector<std::vector<Taken>> steps;  // [choices][states]
  for (const WidthChoices& choice : choices) {
    std::vector<double> next(states, kNever);
    std::vector<Taken> how(states);
    for (std::size_t state = 0; state < states; ++state) {
      if (best[state] == kNever) continue;
      for (std::size_t i = 0; i < choice.widths.size(); ++i) {
        const std::int64_t saved =
            choice.heads * (choice.widths.front() - choice.widths[i]) / kThinGrain;
        const auto to =
            static_cast<std::size_t>(std::min(wanted, static_cast<std::int64_t>(state) + saved));
        const double loss = best[state] + choice.losses[i];
        if (loss >= next[to]) continue;
        next[to] = loss;
        how[to] = {.from = state, .width = choice.widths[i]};
      }
    }
    best = std::move(next);
    steps.push_back(std::move(how));
  }
  std::vector<std::int32_t> widths(choices.size());
  std::size_t state = states - 1;
  for (std::size_t i = choices.size(); i-- > 0;) {
    widths[i] = steps[i][state].width;
    state = steps[i][state].from;
  }
  return widths;
}

}  // namespace sedpa
