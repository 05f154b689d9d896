#include "sedpa/attention/decode_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace sedpa {
namespace {

struct Sizes {
  std::int32_t tiles[kHeadClasses];
  std::int32_t units[kHeadClasses];
  std::int32_t most_pieces;
  std::int32_t least_tiles;
  std::int32_t unit_cost;

  [[nodiscard]] DecodeSplit split() const {
    return DecodeSplit::make(tiles, units, most_pieces, least_tiles, unit_cost);
  }
};

std::vector<Sizes> sizes() {
  return {
      {{1, 1}, {1, 0}, 132, 1, 0},      {{1, 1}, {0, 1}, 132, 1, 8},
      {{0, 0}, {2, 6}, 132, 4, 8},      {{7, 3}, {4, 4}, 5, 1, 2},
      {{100, 24}, {4, 4}, 132, 4, 8},   {{100, 24}, {0, 8}, 132, 4, 8},
      {{2048, 24}, {8, 0}, 132, 1, 8},  {{2048, 24}, {1, 7}, 132, 4, 8},
      {{513, 1}, {3, 29}, 78, 4, 1},    {{13, 17}, {3, 5}, 2, 1, 8},
      {{3200, 12}, {8, 24}, 132, 1, 8}, {{9, 12}, {0, 128}, 108, 1, 8},
      {{40000, 12}, {8, 0}, 132, 1, 8},
  };
}

TEST(DecodeSplit, EveryTileOfEveryUnitIsInOnePiece) {
  for (const Sizes& c : sizes()) {
    const DecodeSplit split = c.split();
    ASSERT_GE(split.count(), 1);
    ASSERT_LE(split.count(), c.most_pieces);
    std::vector<std::vector<int>> seen[kHeadClasses];
    for (int i = 0; i < kHeadClasses; ++i) {
      seen[i].assign(static_cast<std::size_t>(c.units[i]),
                     std::vector<int>(static_cast<std::size_t>(std::max(c.tiles[i], 1))));
    }
    for (std::int32_t index = 0; index < split.count(); ++index) {
      const DecodeSplit::Piece piece = split.piece(index);
      ASSERT_GE(piece.units, 1);
      ASSERT_GE(piece.unit_tiles(), 1);
      for (std::int32_t u = piece.first_unit; u < piece.first_unit + piece.units; ++u) {
        for (std::int32_t tile = piece.first_tile; tile < piece.end_tile; ++tile) {
          ++seen[piece.head_class]
                .at(static_cast<std::size_t>(u))
                .at(static_cast<std::size_t>(tile));
        }
      }
    }
    for (const auto& units : seen) {
      for (const auto& unit : units) {
        for (const int times : unit) EXPECT_EQ(times, 1);
      }
    }
  }
}

TEST(DecodeSplit, PartsOfAUnitAreNeighbouringPieces) {
  for (const Sizes& c : sizes()) {
    const DecodeSplit split = c.split();
    for (std::int32_t index = 0; index < split.count(); ++index) {
      const DecodeSplit::Piece piece = split.piece(index);
      if (split.parts[piece.head_class] == 1) continue;
      EXPECT_EQ(piece.units, 1);
      const DecodeSplit::Piece first = split.piece(index - piece.part);
      EXPECT_EQ(first.part, 0);
      EXPECT_EQ(first.first_unit, piece.first_unit);
    }
  }
}

// What a piece costs is near what an even share of the work would be.
TEST(DecodeSplit, PiecesAreOfLikeLength) {
  for (const Sizes& c : sizes()) {
    if (c.most_pieces < 2 * (c.units[0] + c.units[1])) continue;  // few pieces: nothing to balance
    const DecodeSplit split = c.split();
    std::int64_t total = 0;
    for (int i = 0; i < kHeadClasses; ++i) total += std::int64_t{split.tiles[i]} * c.units[i];
    const std::int64_t even =
        std::max<std::int64_t>((total + c.most_pieces - 1) / c.most_pieces, c.least_tiles);
    for (std::int32_t index = 0; index < split.count(); ++index) {
      EXPECT_LE(split.piece(index).total(), even + even / 4 + c.unit_cost + 1);
    }
  }
}

}  // namespace
}  // namespace sedpa
