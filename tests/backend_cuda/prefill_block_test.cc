// How a prompt's attention is cut into blocks: every row of every head once, some heads at a time,
// and of a chunk's own keys all that a block's rows see.
#include "sedpa/backend/cuda/prefill_block.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

namespace sedpa::cuda {
namespace {

constexpr int kBlockRows = 16;
constexpr int kTileKeys = 8;

/// Heads 0, 2, 4 see all, 1 and 3 two sinks and `recent` keys.
AttentionParams some_heads(int group, int recent) {
  AttentionParams p;
  p.kv_heads = 5;
  p.group = group;
  p.query_heads = 5 * group;
  p.classes[0].heads = 3;
  p.classes[1] = {.capacity = 1 << 20, .heads = 2, .full = false, .sink = 2, .recent = recent};
  const int order[] = {0, 2, 4, 1, 3};
  std::copy(std::begin(order), std::end(order), p.order);
  return p;
}

std::vector<PrefillBlock> blocks_of(const AttentionParams& p, const PrefillRoom& room) {
  std::vector<PrefillBlock> blocks;
  const int count = (room.tokens * p.group + kBlockRows - 1) / kBlockRows * p.kv_heads;
  for (int i = 0; i < count; ++i) {
    blocks.push_back(PrefillBlock::make(p, room, kBlockRows, kTileKeys, i));
  }
  return blocks;
}

template <class Body>
void for_prompts(const Body& body) {
  for (const int tokens : {1, 7, 40, 97}) {
    for (const int group : {1, 4}) {
      for (const int past : {0, 1, 50}) {
        for (const int together : {1, 2, 5}) {
          const AttentionParams p = some_heads(group, 20);
          PrefillRoom room;
          room.tokens = tokens;
          room.past = past;
          room.heads_together = together;
          SCOPED_TRACE(testing::Message() << tokens << " tokens, group " << group << ", past "
                                          << past << ", together " << together);
          body(p, room);
        }
      }
    }
  }
}

TEST(PrefillBlock, RowsOfEachHeadComeOnce) {
  for_prompts([](const AttentionParams& p, const PrefillRoom& room) {
    std::multiset<std::pair<int, int>> met, all;
    for (int head = 0; head < p.kv_heads; ++head) {
      for (int row = 0; row < room.tokens * p.group; row += kBlockRows) all.emplace(head, row);
    }
    for (const PrefillBlock& block : blocks_of(p, room)) {
      met.emplace(block.kv_head, block.first_row);
      EXPECT_EQ(block.kv_head, p.kv_head(block.head_class, block.head));
    }
    EXPECT_EQ(met, all);
  });
}

// Blocks that run at the same time stand close to each other: so many heads are between them.
TEST(PrefillBlock, HeadsComeSomeAtATimeWithTheirLastRowsFirst) {
  for_prompts([](const AttentionParams& p, const PrefillRoom& room) {
    const std::vector<PrefillBlock> blocks = blocks_of(p, room);
    std::vector<int> last_rows(5, 1 << 30);
    std::set<int> begun, ended;
    for (const PrefillBlock& block : blocks) {
      EXPECT_FALSE(ended.contains(block.kv_head));
      begun.insert(block.kv_head);
      EXPECT_LT(block.first_row, last_rows[block.kv_head]);
      last_rows[block.kv_head] = block.first_row;
      if (block.first_row == 0) ended.insert(block.kv_head);
      EXPECT_LE(begun.size() - ended.size(), room.heads_together);
    }
  });
}

TEST(PrefillBlock, HasTheKeysThatItsRowsSee) {
  for_prompts([](const AttentionParams& p, const PrefillRoom& room) {
    for (const PrefillBlock& block : blocks_of(p, room)) {
      const ClassParams& of = p.classes[block.head_class];
      const auto sees = [&](int token, int key) {  // both of the chunk
        return key <= token && (of.full || room.past + key < of.sink || token - key < of.recent);
      };
      std::set<int> held;
      for (int i = 0; i < block.own.count(); ++i) {
        EXPECT_TRUE(held.insert(block.own.row(i)).second);
      }
      if (of.full) {
        EXPECT_EQ(block.stored, room.past);
      }
      EXPECT_GE(block.stored_tiles * kTileKeys, block.stored);
      EXPECT_GE((block.tiles - block.stored_tiles) * kTileKeys, block.own.count());
      for (int token = block.first_token; token <= block.last_token; ++token) {
        for (int key = 0; key < room.tokens; ++key) {
          if (sees(token, key)) {
            EXPECT_TRUE(held.contains(key));
          }
        }
        for (int i = 0; i < (block.tiles - block.stored_tiles) * kTileKeys; ++i) {
          if (block.masked(block.stored_tiles + i / kTileKeys)) continue;
          ASSERT_LT(i, block.own.count());
          EXPECT_TRUE(sees(token, block.own.row(i)));
        }
      }
    }
  });
}

}  // namespace
}  // namespace sedpa::cuda
