#include "sedpa/attention/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "sedpa/attention/visible_keys.h"
#include "sedpa/core/error.h"

namespace sedpa {
namespace {

const HeadClass kClasses[] = {
    HeadClass::window(4, 0, 8),   HeadClass::window(0, 0, 1),  HeadClass::window(0, 0, 5),
    HeadClass::window(3, 4, 7),   HeadClass::window(0, 3, 5),  HeadClass::window(5, 1, 1),
    HeadClass::window(8, 16, 4),  HeadClass::window(1, 6, 16), HeadClass::window(7, 0, 2),
    HeadClass::window(2, 13, 11),
};

std::string label(const HeadClass& c) {
  return "window " + std::to_string(c.sink) + "," + std::to_string(c.middle) + "," +
         std::to_string(c.recent);
}

// Positions below `length` that a query at or after `length` sees, by the mask alone. Strides
// never fall, so looking one window and some doublings ahead is enough for these small classes.
std::set<std::int32_t> needed(const HeadClass& c, std::int64_t length) {
  std::set<std::int32_t> keys;
  for (std::int64_t j = 0; j < length; ++j) {
    for (std::int64_t p = length; p < length + 40; ++p) {
      if (c.sees(p, j)) {
        keys.insert(static_cast<std::int32_t>(j));
        break;
      }
    }
  }
  return keys;
}

std::set<std::int32_t> held(std::span<const std::int32_t> positions) {
  std::set<std::int32_t> keys;
  for (const std::int32_t position : positions) {
    if (position < 0) continue;
    EXPECT_TRUE(keys.insert(position).second) << "stored twice: " << position;
  }
  return keys;
}

TEST(WindowSlots, HoldsExactlyWhatLaterQueriesSee) {
  for (const HeadClass& c : kClasses) {
    const std::int64_t context = 300;
    WindowSlots slots(c, c.capacity(context));
    EXPECT_EQ(static_cast<std::int64_t>(slots.positions().size()), c.capacity(context));
    for (std::int64_t length = 0; length < context; ++length) {
      ASSERT_EQ(held(slots.positions()), needed(c, length)) << label(c) << " length " << length;
      slots.commit(length, 1);
    }
  }
}

TEST(WindowSlots, ChunkingDoesNotMatterAndSurvivorsNeverMove) {
  std::mt19937 random(7);
  for (const HeadClass& c : kClasses) {
    const std::int64_t context = 700;
    std::vector<std::vector<std::int32_t>> token_by_token;  // table after each length
    WindowSlots one(c, c.capacity(context));
    for (std::int64_t length = 0; length <= context; ++length) {
      token_by_token.emplace_back(one.positions().begin(), one.positions().end());
      if (length < context) one.commit(length, 1);
    }
    for (int run = 0; run < 20; ++run) {
      const std::int64_t longest = run < 10 ? 9 : 200;
      WindowSlots slots(c, c.capacity(context));
      for (std::int64_t length = 0; length < context;) {
        const std::int64_t tokens = std::min<std::int64_t>(
            context - length, std::uniform_int_distribution<std::int64_t>(0, longest)(random));
        const std::vector<std::int32_t> before(slots.positions().begin(), slots.positions().end());
        std::vector<SlotWrite> writes;
        slots.plan(length, tokens, writes);
        ASSERT_TRUE(std::ranges::equal(before, slots.positions())) << "plan changed the state";
        slots.commit(length, tokens);
        length += tokens;
        const auto after = slots.positions();
        ASSERT_TRUE(std::ranges::equal(after, token_by_token[length]))
            << label(c) << " length " << length;
        // The writes account for every new position, and nothing else has changed its slot.
        std::vector<std::int32_t> applied = before;
        for (const SlotWrite& write : writes) {
          applied[write.slot] = static_cast<std::int32_t>(length - tokens) + write.row;
        }
        for (std::size_t slot = 0; slot < after.size(); ++slot) {
          if (after[slot] < 0) continue;
          ASSERT_EQ(applied[slot], after[slot]) << label(c);
        }
      }
    }
  }
}

TEST(WindowSlots, WithoutMiddleItIsARing) {
  const HeadClass c = HeadClass::window(4, 0, 8);
  WindowSlots slots(c, c.capacity(1000));
  for (std::int64_t p = 0; p < 100; ++p) {
    std::vector<SlotWrite> writes;
    slots.plan(p, 1, writes);
    ASSERT_EQ(writes.size(), 1u);
    EXPECT_EQ(writes[0].slot, p < 4 ? p : 4 + (p - 4) % 8);
    slots.commit(p, 1);
  }
}

TEST(VisibleKeys, IsTheUnionOfTheMasksInOrder) {
  for (const HeadClass& c : kClasses) {
    for (std::int64_t first = 0; first < 120; ++first) {
      for (const std::int64_t tokens : {1, 2, 5, 30}) {
        const std::int64_t last = first + tokens - 1;
        const VisibleKeys keys = visible_keys(c, first, last);
        std::int64_t before = -1;
        std::set<std::int64_t> listed;
        for (std::int64_t i = 0; i < keys.count(); ++i) {
          const std::int64_t position = keys.position(i);
          ASSERT_GT(position, before) << label(c);
          before = position;
          ASSERT_EQ(keys.rank(position), i);
          listed.insert(position);
        }
        for (std::int64_t end = 0; end <= last + 2; ++end) {
          ASSERT_EQ(keys.count_below(end), std::distance(listed.begin(), listed.lower_bound(end)));
        }
        const VisibleKeys stored = stored_keys(c, first);
        for (std::int64_t j = 0; j <= last; ++j) {
          bool any = false;
          for (std::int64_t p = first; p <= last; ++p) any = any || c.sees(p, j);
          ASSERT_TRUE(!any || listed.contains(j)) << label(c) << " first " << first << " j " << j;
          // One query: exactly its mask.
          ASSERT_TRUE(tokens > 1 || any == listed.contains(j)) << label(c) << " first " << first;
          if (listed.contains(j) && j < first) {
            ASSERT_EQ(stored.position(stored.rank(j)), j) << label(c) << " first " << first;
          }
        }
      }
    }
  }
}

KvGeometry geometry(std::int64_t context, KvDtype dtype = KvDtype::f16) {
  const std::vector<double> gates = {0.9, 0.1, 0.8, /**/ 0.3, 0.2, 0.25, /**/ 0.7, 0.6, 0.95};
  KvGeometry g;
  g.plan = HeadPlan::from_gates(gates, 3, 3, 0.5, HeadClass{}, HeadClass::window(4, 0, 8));
  g.context = context;
  g.head_dim = 64;
  g.dtype = dtype;
  return g;
}

TEST(KvCache, PlannedBytesAreTheFormula) {
  // Layers keep 2, 0 and 3 retrieval heads; ceil(0.5 * 8) = 4 heads stream.
  const KvGeometry g = geometry(1000);
  EXPECT_EQ(g.arena_bytes(kRetrieval), std::size_t{5} * 1000 * 2 * 128);
  EXPECT_EQ(g.arena_bytes(kStreaming), std::size_t{4} * 12 * 2 * 128);
  EXPECT_EQ(g.bytes(), g.arena_bytes(kRetrieval) + g.arena_bytes(kStreaming));
  EXPECT_EQ(geometry(1000, KvDtype::q8).arena_bytes(kRetrieval), std::size_t{5} * 1000 * 2 * 68);
  EXPECT_EQ(geometry(1000, KvDtype::q4).arena_bytes(kRetrieval), std::size_t{5} * 1000 * 2 * 36);
  EXPECT_EQ(geometry(1000, KvDtype::f32).arena_bytes(kRetrieval), std::size_t{5} * 1000 * 2 * 256);
  EXPECT_EQ(geometry(5).arena_bytes(kStreaming), std::size_t{4} * 5 * 2 * 128);
}

TEST(KvCache, ReadBytesCountTheMask) {
  const KvGeometry g = geometry(1000);
  for (const std::int64_t length : {0, 1, 3, 4, 5, 11, 12, 13, 100, 999}) {
    std::size_t keys = 0;
    for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
      const std::size_t heads = head_class == kRetrieval ? 5 : 4;
      for (std::int64_t j = 0; j < length; ++j) {
        if (g.plan.classes[head_class].sees(length, j)) keys += heads;
      }
    }
    EXPECT_EQ(g.read_bytes(length), keys * 2 * 128) << length;
  }
}

TEST(KvCache, BlocksFillTheArenasWithoutOverlap) {
  const KvGeometry g = geometry(100, KvDtype::q8);
  std::vector<std::byte> full(g.arena_bytes(kRetrieval));
  std::vector<std::byte> window(g.arena_bytes(kStreaming));
  const KvCache cache(g, {full.data(), window.data()});
  ASSERT_EQ(cache.layers(), 3);
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    std::byte* next = head_class == kRetrieval ? full.data() : window.data();
    for (std::int64_t i = 0; i < cache.layers(); ++i) {
      const KvBlock& block = cache.layer(i).blocks[head_class];
      EXPECT_EQ(block.heads, g.plan.layers[i].count(head_class));
      EXPECT_EQ(cache.layer(i).heads->order, g.plan.layers[i].order);
      if (block.heads == 0) continue;
      EXPECT_EQ(block.keys, next);
      EXPECT_EQ(block.values, block.key(block.heads - 1, block.capacity - 1) + 68);
      next = block.value(block.heads - 1, block.capacity - 1) + 68;
    }
    EXPECT_EQ(next,
              head_class == kRetrieval ? full.data() + full.size() : window.data() + window.size());
  }
}

TEST(KvCache, RestoreTakesUpAnyChunking) {
  const KvGeometry g = geometry(100);
  std::vector<std::byte> full(g.arena_bytes(kRetrieval));
  std::vector<std::byte> window(g.arena_bytes(kStreaming));
  KvCache cache(g, {full.data(), window.data()});
  for (const std::int64_t tokens : {7, 1, 30, 2}) cache.advance(tokens);
  const std::vector<std::int32_t> before(cache.positions(kStreaming).begin(),
                                         cache.positions(kStreaming).end());
  EXPECT_TRUE(cache.positions(kRetrieval).empty());
  const auto writes = cache.plan_commit(kRetrieval, 2);
  ASSERT_EQ(writes.size(), 2u);
  EXPECT_EQ(writes[1].row, 1);
  EXPECT_EQ(writes[1].slot, 41);
  cache.clear();
  EXPECT_EQ(cache.length(), 0);
  cache.restore(40);
  EXPECT_EQ(cache.length(), 40);
  EXPECT_TRUE(std::ranges::equal(before, cache.positions(kStreaming)));
}

TEST(KvCache, SaysWhenThereIsNoRoom) {
  const KvGeometry g = geometry(10);
  std::vector<std::byte> full(g.arena_bytes(kRetrieval));
  std::vector<std::byte> window(g.arena_bytes(kStreaming));
  KvCache cache(g, {full.data(), window.data()});
  cache.advance(9);
  EXPECT_THROW(cache.advance(2), Error);
  EXPECT_THROW((void)cache.plan_commit(kRetrieval, 2), Error);
  EXPECT_THROW(cache.restore(11), Error);
  EXPECT_THROW(KvCache(g, {nullptr, window.data()}), Error);
  cache.advance(1);
  EXPECT_EQ(cache.length(), 10);
}

TEST(KvGeometry, RefusesSizesThatOverflow) {
  KvGeometry g = geometry(std::numeric_limits<std::int32_t>::max());
  g.head_dim = std::numeric_limits<std::int32_t>::max() - 1;
  EXPECT_THROW((void)g.bytes(), Error);
  g = geometry(std::int64_t{1} << 40);
  EXPECT_THROW((void)g.bytes(), Error);
  g = geometry(10);
  g.head_dim = 63;
  EXPECT_THROW((void)g.bytes(), Error);
}

}  // namespace
}  // namespace sedpa
