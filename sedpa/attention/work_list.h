#pragma once
// Who does which piece of a layer's attention. Integers only; a function of its arguments alone,
// so that the same step with the same number of threads repeats bit for bit, whoever runs a piece.
#include <cstdint>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/attention/visible_keys.h"

namespace sedpa {

/// A layer's attention in one step.
struct WorkShape {
  const HeadClass* classes = nullptr;     // [kHeadClasses]
  std::int32_t heads[kHeadClasses] = {};  // KV heads of each class in the layer
  std::int32_t group = 1;                 // query heads of a KV head
  std::int64_t past = 0;
  std::int64_t tokens = 0;
  std::int64_t tile_tokens = 1;  // queries of one unit, at most
  std::int64_t key_grain = 1;    // cuts of key ranges are multiples of it
  int threads = 1;
};

/// Queries [first_token, first_token + tokens) of the chunk, KV head `head` of its class, and of
/// the keys that they see (visible_keys of these queries) the ranks [key_begin, key_end).
struct WorkPiece {
  std::int32_t head_class = 0;
  std::int32_t head = 0;  // in the class's block
  std::int64_t first_token = 0;
  std::int64_t tokens = 0;
  std::int64_t key_begin = 0;
  std::int64_t key_end = 0;
  std::int32_t partial = -1;  // which partial result it makes; -1: it is whole
  std::int32_t merge = -1;    // which merge it belongs to; -1: it is whole
};

/// Consecutive pieces that are handed out together.
struct WorkTask {
  std::int32_t first_piece = 0;
  std::int32_t pieces = 0;
};

/// Partial results [first_partial, first_partial + partials) of the same queries and head, in
/// ascending order of keys.
struct WorkMerge {
  std::int32_t head_class = 0;
  std::int32_t head = 0;
  std::int64_t first_token = 0;
  std::int64_t tokens = 0;
  std::int32_t first_partial = 0;
  std::int32_t partials = 0;
};

struct WorkList {
  std::vector<WorkPiece> pieces;
  std::vector<WorkTask> tasks;  // in the order of handing out: largest first, or equal
  std::vector<WorkMerge> merges;
  std::int32_t partials = 0;
};

/// Tasks a thread gets when key ranges are cut.
inline constexpr int kTasksPerThread = 4;

/// No list for so many threads has more partial results: a task has at most two.
constexpr std::int64_t max_partials(int threads) {
  return std::int64_t{2} * kTasksPerThread * threads;
}

/// Writes the list for a layer. Units (head x query tile) stay whole where they balance by
/// themselves; where they do not, and for single tokens, the line of all units is cut into tasks
/// of equal cost.
void make_work_list(const WorkShape& shape, WorkList& list);

}  // namespace sedpa
