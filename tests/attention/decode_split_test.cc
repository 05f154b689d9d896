#include "sedpa/attention/decode_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

namespace sedpa {
namespace {

struct Case {
  std::int64_t tiles[kHeadClasses];
  std::int64_t units[kHeadClasses];
  std::int64_t most_pieces;
  std::int64_t least_tiles;
};

std::vector<Case> cases() {
  return {
      {{1, 1}, {1, 0}, 132, 1},     {{1, 1}, {0, 1}, 132, 1},     {{0, 0}, {2, 6}, 132, 4},
      {{7, 3}, {4, 4}, 5, 1},       {{100, 24}, {4, 4}, 132, 4},  {{100, 24}, {0, 8}, 132, 4},
      {{2048, 24}, {8, 0}, 132, 1}, {{2048, 24}, {1, 7}, 132, 4}, {{513, 1}, {3, 29}, 78, 4},
      {{13, 17}, {3, 5}, 136, 1},
  };
}

// Tile by tile: what the arithmetic says is what counting says.
TEST(DecodeSplit, CutsTheLineIntoEqualPieces) {
  for (const Case& c : cases()) {
    const DecodeSplit split = DecodeSplit::make(c.tiles, c.units, c.most_pieces, c.least_tiles);
    ASSERT_GE(split.pieces, 1);
    ASSERT_LE(split.pieces, std::min(c.most_pieces, split.total()));
    EXPECT_EQ(split.piece_begin(0), 0);
    EXPECT_EQ(split.piece_begin(split.pieces), split.total());
    EXPECT_EQ(split.unit_begin(0), 0);
    EXPECT_EQ(split.unit_begin(c.units[0] + c.units[1]), split.total());

    std::int64_t tile = 0;
    for (std::int64_t unit = 0; unit < c.units[0] + c.units[1]; ++unit) {
      EXPECT_EQ(split.unit_begin(unit), tile);
      EXPECT_EQ(split.class_of(unit), unit < c.units[0] ? 0 : 1);
      const std::int64_t count = split.tiles[split.class_of(unit)];
      ASSERT_GE(count, 1);
      for (std::int64_t i = 0; i < count; ++i, ++tile) {
        EXPECT_EQ(split.unit_of(tile), unit);
        const std::int64_t piece = split.piece_of(tile);
        EXPECT_LE(split.piece_begin(piece), tile);
        EXPECT_LT(tile, split.piece_begin(piece + 1));
      }
    }
    EXPECT_EQ(tile, split.total());

    for (std::int64_t piece = 0; piece < split.pieces; ++piece) {
      const std::int64_t size = split.piece_begin(piece + 1) - split.piece_begin(piece);
      EXPECT_GE(size, split.total() / split.pieces);
      EXPECT_LE(size, split.total() / split.pieces + 1);
    }
  }
}

TEST(DecodeSplit, EveryPartHasItsOwnPlace) {
  for (const Case& c : cases()) {
    const DecodeSplit split = DecodeSplit::make(c.tiles, c.units, c.most_pieces, c.least_tiles);
    std::set<std::int64_t> places;
    for (std::int64_t unit = 0; unit < c.units[0] + c.units[1]; ++unit) {
      const std::int64_t first = split.piece_of(split.unit_begin(unit));
      const std::int64_t last = split.piece_of(split.unit_begin(unit + 1) - 1);
      for (std::int64_t piece = first; piece <= last; ++piece) {
        // The pieces between the first and the last all have tiles of the unit.
        EXPECT_LT(split.piece_begin(piece), split.unit_begin(unit + 1));
        EXPECT_GT(split.piece_begin(piece + 1), split.unit_begin(unit));
        const std::int64_t place = DecodeSplit::part(piece, unit);
        EXPECT_TRUE(places.insert(place).second);
        EXPECT_LT(place, split.pieces + c.units[0] + c.units[1]);
      }
    }
  }
}

}  // namespace
}  // namespace sedpa
