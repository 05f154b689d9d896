#include "sedpa/attention/work_list.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <tuple>
#include <vector>

#include "sedpa/attention/online_softmax.h"

namespace sedpa {
namespace {

struct Case {
  HeadClass classes[kHeadClasses];
  std::int32_t heads[kHeadClasses];
  std::int64_t past;
  std::int64_t tokens;
  std::int64_t tile_tokens;
  std::int64_t grain;
  int threads;
};

WorkShape shape_of(const Case& c) {
  return {.classes = c.classes,
          .heads = {c.heads[0], c.heads[1]},
          .group = 3,
          .past = c.past,
          .tokens = c.tokens,
          .tile_tokens = c.tile_tokens,
          .key_grain = c.grain,
          .threads = c.threads};
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const HeadClass full;
  const HeadClass ring = HeadClass::window(4, 0, 24);
  const HeadClass sampled = HeadClass::window(4, 16, 24);
  for (const int threads : {1, 2, 3, 8, 64}) {
    for (const std::int64_t past : {0, 5, 300}) {
      for (const std::int64_t tokens : {1, 2, 50, 130}) {
        all.push_back({{full, ring}, {3, 5}, past, tokens, 16, 8, threads});
        all.push_back({{full, ring}, {1, 0}, past, tokens, 64, 32, threads});
        all.push_back({{sampled, ring}, {0, 2}, past, tokens, 16, 8, threads});
        all.push_back({{sampled, ring}, {2, 1}, past, tokens, 7, 1, threads});
      }
    }
  }
  return all;
}

TEST(WorkList, CoversEveryVisiblePairOnce) {
  for (const Case& c : cases()) {
    WorkList list;
    make_work_list(shape_of(c), list);
    // Every piece is in exactly one task.
    std::vector<int> in_task(list.pieces.size(), 0);
    for (const WorkTask& task : list.tasks) {
      ASSERT_GT(task.pieces, 0);
      for (std::int32_t i = 0; i < task.pieces; ++i) ++in_task.at(task.first_piece + i);
    }
    for (const int times : in_task) ASSERT_EQ(times, 1);

    using Pair = std::tuple<int, int, std::int64_t, std::int64_t>;  // class, head, token, key
    std::map<Pair, int> covered;
    for (const WorkPiece& piece : list.pieces) {
      const HeadClass& kept = c.classes[piece.head_class];
      const std::int64_t first = c.past + piece.first_token;
      const VisibleKeys keys = visible_keys(kept, first, first + piece.tokens - 1);
      ASSERT_LE(piece.key_end, keys.count());
      ASSERT_LT(piece.key_begin, piece.key_end);
      ASSERT_LE(piece.tokens, c.tile_tokens);
      for (std::int64_t rank = piece.key_begin; rank < piece.key_end; ++rank) {
        const std::int64_t j = keys.position(rank);
        for (std::int64_t t = 0; t < piece.tokens; ++t) {
          if (!kept.sees(first + t, j)) continue;
          ++covered[{piece.head_class, piece.head, piece.first_token + t, j}];
        }
      }
    }
    std::size_t expected = 0;
    for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
      for (int head = 0; head < c.heads[head_class]; ++head) {
        for (std::int64_t t = 0; t < c.tokens; ++t) {
          for (std::int64_t j = 0; j <= c.past + t; ++j) {
            expected += c.classes[head_class].sees(c.past + t, j);
          }
        }
      }
    }
    ASSERT_EQ(covered.size(), expected);
    for (const auto& [pair, times] : covered) ASSERT_EQ(times, 1);
  }
}

TEST(WorkList, PartsOfAMergeStandInKeyOrderAndAreBounded) {
  for (const Case& c : cases()) {
    WorkList list;
    make_work_list(shape_of(c), list);
    ASSERT_LE(list.partials, max_partials(c.threads));
    ASSERT_LE(static_cast<std::int64_t>(list.merges.size()), max_partials(c.threads));
    std::map<int, std::vector<const WorkPiece*>> parts;
    for (const WorkPiece& piece : list.pieces) {
      ASSERT_EQ(piece.merge < 0, piece.partial < 0);
      if (piece.merge >= 0) parts[piece.merge].push_back(&piece);
    }
    ASSERT_EQ(parts.size(), list.merges.size());
    std::int32_t next = 0;
    for (const auto& [index, pieces] : parts) {
      const WorkMerge& merge = list.merges[index];
      ASSERT_EQ(merge.first_partial, next);
      ASSERT_EQ(static_cast<std::size_t>(merge.partials), pieces.size());
      ASSERT_GT(merge.partials, 1);
      std::int64_t key = 0;
      for (const WorkPiece* piece : pieces) {
        ASSERT_EQ(piece->partial, next++);
        ASSERT_EQ(piece->key_begin, key);
        ASSERT_EQ(piece->head, merge.head);
        ASSERT_EQ(piece->head_class, merge.head_class);
        ASSERT_EQ(piece->first_token, merge.first_token);
        key = piece->key_end;
      }
    }
    ASSERT_EQ(next, list.partials);
  }
}

// The busiest thread when each task goes to whoever is free first; costs are rows x keys.
double imbalance(const WorkList& list, int threads) {
  std::vector<double> busy(threads, 0.0);
  double total = 0;
  for (const WorkTask& task : list.tasks) {
    double cost = 0;
    for (std::int32_t i = 0; i < task.pieces; ++i) {
      const WorkPiece& piece = list.pieces[task.first_piece + i];
      cost += static_cast<double>(piece.tokens * (piece.key_end - piece.key_begin));
    }
    *std::min_element(busy.begin(), busy.end()) += cost;
    total += cost;
  }
  return *std::max_element(busy.begin(), busy.end()) * threads / total;
}

TEST(WorkList, KeepsAllThreadsBusy) {
  const HeadClass full;
  const HeadClass ring = HeadClass::window(64, 0, 256);
  struct {
    std::int32_t full, window;
    std::int64_t past, tokens;
    int threads;
  } const shapes[] = {
      {3, 0, 4096, 1, 2},     {1, 7, 8000, 1, 2},   {1, 7, 8000, 1, 16},    {8, 0, 32000, 1, 64},
      {3, 0, 0, 512, 2},      {3, 0, 4096, 512, 2}, {1, 7, 32000, 512, 16}, {1, 2, 8000, 2000, 2},
      {2, 6, 100000, 64, 64}, {3, 0, 8000, 7, 2},
  };
  for (const auto& s : shapes) {
    const Case c = {{full, ring}, {s.full, s.window},      s.past,   s.tokens,
                    64,           s.tokens == 1 ? 32 : 64, s.threads};
    WorkList list;
    make_work_list(shape_of(c), list);
    EXPECT_LE(imbalance(list, s.threads), 1.2)
        << s.full << '+' << s.window << " heads, " << s.tokens << " tokens after " << s.past << ", "
        << s.threads << " threads";
  }
}

TEST(WorkList, IsAFunctionOfItsArguments) {
  for (const Case& c : cases()) {
    WorkList one;
    WorkList two;
    two.pieces.resize(5);  // what stood there before does not matter
    make_work_list(shape_of(c), one);
    make_work_list(shape_of(c), two);
    ASSERT_EQ(one.pieces.size(), two.pieces.size());
    for (std::size_t i = 0; i < one.pieces.size(); ++i) {
      ASSERT_EQ(one.pieces[i].key_begin, two.pieces[i].key_begin);
      ASSERT_EQ(one.pieces[i].key_end, two.pieces[i].key_end);
      ASSERT_EQ(one.pieces[i].head, two.pieces[i].head);
      ASSERT_EQ(one.pieces[i].first_token, two.pieces[i].first_token);
    }
  }
}

TEST(OnlineSoftmax, PartsMergeToTheWhole) {
  // Scores (base 2) and one-dimensional values, in three parts; one part is far below the others.
  const std::vector<std::vector<std::pair<float, float>>> parts = {
      {{1.5f, 2.0f}, {-3.0f, 7.0f}}, {{-90.0f, 100.0f}}, {{4.0f, -1.0f}, {4.0f, 3.0f}}};
  double numerator = 0;
  double denominator = 0;
  struct Kept {
    float max, sum, out;
  };
  std::vector<Kept> kept;
  for (const auto& part : parts) {
    Kept one = {-1e30f, 0, 0};
    for (const auto& [score, value] : part) one.max = std::max(one.max, score);
    for (const auto& [score, value] : part) {
      one.sum += std::exp2(score - one.max);
      one.out += std::exp2(score - one.max) * value;
      numerator += std::exp2(double{score}) * value;
      denominator += std::exp2(double{score});
    }
    kept.push_back(one);
  }
  kept.push_back({-1e30f, 0, 0});  // a part that saw nothing
  float out = 0;
  merge_softmax_parts(
      static_cast<std::int64_t>(kept.size()), 1,
      [&](std::int64_t i) {
        return SoftmaxPart{kept[i].max, kept[i].sum, &kept[i].out};
      },
      &out);
  EXPECT_NEAR(out, numerator / denominator, 1e-6);
}

}  // namespace
}  // namespace sedpa
