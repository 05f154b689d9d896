#pragma once
// Which keys a run of queries can see, as three arithmetic runs of positions in ascending order:
//   sinks [0, sinks), the middle sample middle_first + i * middle_stride, and a plain tail
//   [tail_first, tail_first + tail).
// Integers only: the CPU and the device enumerate keys by the same rule, and a key's rank among the
// stored keys of a window class is arithmetic too.
#include <algorithm>
#include <cstdint>

#include "sedpa/attention/head_plan.h"

namespace sedpa {

struct VisibleKeys {
  std::int64_t sinks = 0;
  std::int64_t middle_first = 0;
  std::int64_t middle_stride = 1;
  std::int64_t middle = 0;  // count
  std::int64_t tail_first = 0;
  std::int64_t tail = 0;  // count

  [[nodiscard]] constexpr std::int64_t count() const { return sinks + middle + tail; }

  /// Position of the key of rank i, 0 <= i < count().
  [[nodiscard]] constexpr std::int64_t position(std::int64_t i) const {
    if (i < sinks) return i;
    i -= sinks;
    if (i < middle) return middle_first + i * middle_stride;
    return tail_first + (i - middle);
  }

  /// Rank of a position that is one of these keys.
  [[nodiscard]] constexpr std::int64_t rank(std::int64_t position) const {
    if (position >= tail_first) return sinks + middle + (position - tail_first);
    if (position < sinks) return position;
    return sinks + (position - middle_first) / middle_stride;
  }

  /// Keys whose position is below `end`.
  [[nodiscard]] constexpr std::int64_t count_below(std::int64_t end) const {
    if (end > tail_first) return sinks + middle + std::min(tail, end - tail_first);
    if (end <= sinks) return std::max<std::int64_t>(end, 0);
    if (middle == 0 || end <= middle_first) return sinks;
    return sinks + std::min(middle, (end - 1 - middle_first) / middle_stride + 1);
  }
};

/// The union of what queries [first, last] see: every key that one of them sees is listed, once;
/// keys that only some of them see are listed too. Strides never fall, so the oldest query's
/// middle sample holds every younger query's share of the same keys.
inline VisibleKeys visible_keys(const HeadClass& head_class, std::int64_t first,
                                std::int64_t last) {
  VisibleKeys keys;
  if (head_class.full) {
    keys.tail = last + 1;
    return keys;
  }
  keys.sinks = std::min<std::int64_t>(head_class.sink, last + 1);
  const std::int64_t old_end = first - head_class.recent + 1;  // older than `first`'s recent keys
  keys.tail_first = std::max<std::int64_t>(keys.sinks, old_end);
  keys.tail = last + 1 - keys.tail_first;
  if (head_class.middle > 0 && old_end > head_class.sink) {
    keys.middle_stride = head_class.middle_stride(first);
    const std::int64_t stride = keys.middle_stride;
    keys.middle_first = (head_class.sink + stride - 1) / stride * stride;
    if (keys.middle_first < old_end) {
      keys.middle = (old_end - 1 - keys.middle_first) / stride + 1;
    }
  }
  return keys;
}

/// What a class keeps when `length` tokens are committed: the keys that query `length` or a later
/// one can see, itself not counted.
inline VisibleKeys stored_keys(const HeadClass& head_class, std::int64_t length) {
  VisibleKeys keys = visible_keys(head_class, length, length);
  if (keys.tail > 0)
    --keys.tail;  // the query's own key is the last of all
  else if (keys.sinks > length)
    --keys.sinks;
  return keys;
}

}  // namespace sedpa
