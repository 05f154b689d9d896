#pragma once
#include <algorithm>
#include <cstdint>

#include "sedpa/core/checked.h"
#include "sedpa/core/thread_pool.h"

namespace sedpa::cpu {

/// Numbers that are worth waking another thread for.
inline constexpr std::int64_t kNumbersAPiece = 8192;

/// body(row) for all rows, several at a time on each thread.
template <class Body>
void for_rows(ThreadPool& pool, std::int64_t rows, std::int64_t cols, const Body& body) {
  const std::int64_t rows_a_piece =
      std::max<std::int64_t>(1, kNumbersAPiece / std::max<std::int64_t>(1, cols));
  pool.for_each(ceil_div(rows, rows_a_piece), [&](std::int64_t piece, int) {
    const std::int64_t end = std::min(rows, (piece + 1) * rows_a_piece);
    for (std::int64_t row = piece * rows_a_piece; row < end; ++row) body(row);
  });
}

}  // namespace sedpa::cpu
