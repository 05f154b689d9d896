#include "sedpa/attention/work_list.h"

#include <algorithm>
#include <numeric>

#include "sedpa/core/checked.h"

namespace sedpa {
namespace {

// Costs are in rows x keys. Converting a key costs about as much as this many rows on it, and
// starting a piece as much as so many keys.
constexpr std::int64_t kRowsToConvert = 8;
constexpr std::int64_t kKeysToStart = 16;
// A task is not worth handing out for fewer keys of one token.
constexpr std::int64_t kSmallestTask = 96 * kRowsToConvert;
// How much longer than an equal share the busiest thread may run before units are cut.
constexpr double kImbalance = 1.05;

struct Unit {
  WorkPiece piece;
  std::int64_t cost = 0;
};

std::int64_t cost_of(const WorkShape& shape, std::int64_t tokens, std::int64_t keys) {
  return (tokens * shape.group + kRowsToConvert) * (keys + kKeysToStart);
}

std::vector<Unit> units_of(const WorkShape& shape) {
  std::vector<Unit> units;
  for (std::int32_t head_class = 0; head_class < kHeadClasses; ++head_class) {
    for (std::int32_t head = 0; head < shape.heads[head_class]; ++head) {
      for (std::int64_t first = 0; first < shape.tokens; first += shape.tile_tokens) {
        Unit unit;
        unit.piece.head_class = head_class;
        unit.piece.head = head;
        unit.piece.first_token = first;
        unit.piece.tokens = std::min(shape.tile_tokens, shape.tokens - first);
        const std::int64_t query = shape.past + first;
        unit.piece.key_end =
            visible_keys(shape.classes[head_class], query, query + unit.piece.tokens - 1).count();
        unit.cost = cost_of(shape, unit.piece.tokens, unit.piece.key_end);
        units.push_back(unit);
      }
    }
  }
  return units;
}

// How long the busiest thread runs when whole units go out, largest first, to whoever is free.
std::int64_t busiest(const std::vector<Unit>& by_cost, int threads) {
  std::vector<std::int64_t> free_at(threads, 0);  // a heap: the earliest stands first
  for (const Unit& unit : by_cost) {
    std::pop_heap(free_at.begin(), free_at.end(), std::greater<>());
    free_at.back() += unit.cost;
    std::push_heap(free_at.begin(), free_at.end(), std::greater<>());
  }
  return *std::max_element(free_at.begin(), free_at.end());
}

// Whole units, each a task.
void keep_whole(const std::vector<Unit>& by_cost, WorkList& list) {
  for (const Unit& unit : by_cost) {
    list.tasks.push_back({static_cast<std::int32_t>(list.pieces.size()), 1});
    list.pieces.push_back(unit.piece);
  }
}

// The line of all units, cut into `tasks` tasks of equal cost.
void cut(const WorkShape& shape, const std::vector<Unit>& units, std::int64_t total,
         std::int64_t tasks, WorkList& list) {
  std::int64_t task = 0;
  std::int64_t before = 0;  // cost of the units before this one
  std::int32_t first_piece = 0;
  const auto pieces = [&] { return static_cast<std::int32_t>(list.pieces.size()); };
  const auto task_end = [&] {
    return total / tasks * (task + 1) + total % tasks * (task + 1) / tasks;
  };
  const auto end_task = [&] {
    if (pieces() > first_piece) list.tasks.push_back({first_piece, pieces() - first_piece});
    first_piece = pieces();
    ++task;
  };
  for (const Unit& unit : units) {
    const std::int64_t keys = unit.piece.key_end;
    const std::int32_t unit_first = pieces();
    WorkPiece rest = unit.piece;
    while (task + 1 < tasks && task_end() < before + unit.cost) {
      const double share =
          static_cast<double>(task_end() - before) / static_cast<double>(unit.cost);
      const auto exact = static_cast<std::int64_t>(share * static_cast<double>(keys));
      const std::int64_t end =
          std::min(keys, (exact + shape.key_grain / 2) / shape.key_grain * shape.key_grain);
      if (end >= keys) break;  // the boundary is the unit's end, to the grain
      if (end > rest.key_begin) {
        WorkPiece piece = rest;
        piece.key_end = end;
        list.pieces.push_back(piece);
        rest.key_begin = end;
      }
      end_task();
    }
    list.pieces.push_back(rest);
    const std::int32_t made = pieces() - unit_first;
    if (made > 1) {
      for (std::int32_t i = 0; i < made; ++i) {
        list.pieces[unit_first + i].partial = list.partials + i;
        list.pieces[unit_first + i].merge = static_cast<std::int32_t>(list.merges.size());
      }
      list.merges.push_back({unit.piece.head_class, unit.piece.head, unit.piece.first_token,
                             unit.piece.tokens, list.partials, made});
      list.partials += made;
    }
    before += unit.cost;
    if (task + 1 < tasks && task_end() <= before) end_task();
  }
  end_task();
}

}  // namespace

void make_work_list(const WorkShape& shape, WorkList& list) {
  list.pieces.clear();
  list.tasks.clear();
  list.merges.clear();
  list.partials = 0;
  const std::vector<Unit> units = units_of(shape);
  if (units.empty()) return;
  const std::int64_t total =
      std::accumulate(units.begin(), units.end(), std::int64_t{0},
                      [](std::int64_t sum, const Unit& unit) { return sum + unit.cost; });

  std::vector<Unit> by_cost = units;
  std::stable_sort(by_cost.begin(), by_cost.end(),
                   [](const Unit& a, const Unit& b) { return a.cost > b.cost; });
  const auto share = static_cast<double>(total) / shape.threads;
  const bool balanced = static_cast<double>(busiest(by_cost, shape.threads)) <= kImbalance * share;
  if (shape.threads == 1 || (balanced && shape.tokens > 1)) {
    keep_whole(by_cost, list);
    return;
  }
  const std::int64_t tasks = std::clamp<std::int64_t>(
      total / kSmallestTask, 1, std::int64_t{shape.threads} * kTasksPerThread);
  cut(shape, units, total, tasks, list);
}

}  // namespace sedpa
