#include "sedpa/backend/cuda/program_exchange.h"

#include <algorithm>

#include "sedpa/core/checked.h"

namespace sedpa::cuda {
namespace {

constexpr std::int32_t kLine = 32;  // floats
constexpr std::int32_t kQuad = 4;   // that are read at once

}  // namespace

std::int32_t ProgramExchange::send(const float* to, std::int64_t count) {
  const float* const end = to + count;
  const bool follows = !live_.empty() && live_.back().end == to;
  std::vector<Range> left;
  for (const Range& range : live_) {
    if (range.begin < std::min(range.end, to)) {
      left.push_back(range);
      left.back().end = std::min(range.end, to);
    }
    if (range.end > std::max(range.begin, end)) {
      left.push_back(range);
      left.back().begin = std::max(range.begin, end);
      left.back().place += static_cast<std::int32_t>(left.back().begin - range.begin);
    }
  }
  live_ = std::move(left);
  // Quads in memory are quads in the exchange.
  const auto misplaced =
      static_cast<std::int32_t>(reinterpret_cast<std::uintptr_t>(to) / sizeof(float) % kQuad);
  const std::int32_t place = follows ? floats_ : round_up(floats_, kLine) + misplaced;
  floats_ = place + static_cast<std::int32_t>(count);
  live_.push_back({to, end, place, place});
  return place;
}

std::optional<std::int32_t> ProgramExchange::find(const float* from, std::int64_t count) const {
  const float* const end = from + count;
  std::int64_t covered = 0;
  std::optional<std::int32_t> place;
  for (const Range& range : live_) {
    const float* const first = std::max(range.begin, from);
    const float* const last = std::min(range.end, end);
    if (first >= last) continue;
    // Where `from` would be.
    const auto here = range.place + static_cast<std::int32_t>(from - range.begin);
    if (place && *place != here) return std::nullopt;
    place = here;
    covered += last - first;
  }
  if (!place) return kBefore;
  if (covered != count) return std::nullopt;
  return place;
}

std::int32_t ProgramExchange::floats() const { return round_up(floats_, kLine); }

bool ProgramExchange::lasts(std::int32_t place) const {
  return std::any_of(live_.begin(), live_.end(),
                     [&](const Range& range) { return range.sent == place; });
}

}  // namespace sedpa::cuda
