#include "sedpa/backend/cpu/attention_groups.h"

#include <algorithm>

#include "sedpa/core/checked.h"

namespace sedpa::cpu {

void find_groups(const TileQueries& queries, const VisibleKeys& keys, std::int64_t first_rank,
                 std::span<const std::int32_t> of_keys, GroupKeys* groups) {
  const HeadClass& kept = queries.kept;
  const std::int32_t* positions = of_keys.data();
  const auto count = static_cast<int>(of_keys.size());
  const auto position_of = [&](std::int64_t row) {
    return queries.first + std::min(row / queries.group, queries.tokens - 1);
  };
  for (std::int64_t row = 0; row < queries.rows; row += kGroupRows) {
    const std::int64_t last_row = std::min<std::int64_t>(row + kGroupRows, queries.rows) - 1;
    const std::int64_t oldest = position_of(row);
    const std::int64_t youngest = position_of(last_row);
    GroupKeys& seen = groups[row / kGroupRows];
    seen.begin = 0;
    // Old keys that have left every row's recent window, unless they are sampled.
    const bool plain_window = !kept.full && kept.middle == 0 && positions[0] >= kept.sink;
    if (plain_window) {
      const auto first = std::lower_bound(
          positions, positions + count,
          static_cast<std::int32_t>(std::max<std::int64_t>(0, oldest - kept.recent + 1)));
      seen.begin = static_cast<int>(first - positions) / 8 * 8;
    }
    const auto past_end =
        std::upper_bound(positions, positions + count, static_cast<std::int32_t>(youngest));
    const auto end = static_cast<int>(past_end - positions);
    seen.end = round_up(end, 8);
    if (seen.begin >= seen.end) continue;

    // Future keys and padding.
    seen.masked = end < seen.end || positions[end - 1] > oldest;
    if (kept.full || seen.masked) continue;
    // The oldest key that is no sink: does the youngest row still see it?
    const auto no_sink = std::lower_bound(positions + seen.begin, positions + end, kept.sink);
    if (no_sink == positions + end || youngest - *no_sink < kept.recent) continue;
    // Unless all such keys are of the sample, and the sample is the same for all rows.
    const std::int64_t sampled_end = keys.sinks + keys.middle - first_rank;
    const std::int64_t recent_begin =
        std::upper_bound(positions, positions + end,
                         static_cast<std::int32_t>(youngest - kept.recent)) -
        positions;
    seen.masked = kept.middle == 0 || recent_begin > sampled_end ||
                  kept.middle_stride(youngest) != keys.middle_stride;
  }
}

}  // namespace sedpa::cpu
