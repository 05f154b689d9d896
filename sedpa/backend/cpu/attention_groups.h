#pragma once
// Which keys the query rows of a tile see, group by group: the tile way of attention.cc.
#include <cstdint>
#include <span>

#include "sedpa/attention/head_plan.h"
#include "sedpa/attention/visible_keys.h"
#include "sedpa/backend/cpu/attention_kernels.h"

namespace sedpa::cpu {

/// The query rows of a tile: `group` for each token, and padding that stands for the last one.
struct TileQueries {
  HeadClass kept;
  std::int64_t first = 0;  // position of the first token
  std::int64_t tokens = 0;
  std::int64_t group = 0;
  int rows = 0;
};

/// What each group of kGroupRows rows sees of the keys at these positions, ranks [first_rank, ...)
/// of `keys`, all that some row of the tile sees. The positions go on, above any query's, to a
/// multiple of 8.
void find_groups(const TileQueries& queries, const VisibleKeys& keys, std::int64_t first_rank,
                 std::span<const std::int32_t> positions, GroupKeys* groups);

}  // namespace sedpa::cpu
