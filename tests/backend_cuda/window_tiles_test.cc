// How training's windowed attention is cut: every key that a row sees is met once, from either
// side.
#include "sedpa/backend/cuda/window_tiles.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

namespace sedpa::cuda {
namespace {

using Pairs = std::multiset<std::pair<int, int>>;  // row, key

/// All that a mask lets through.
Pairs seen(const WindowMask& mask) {
  Pairs pairs;
  for (int row = 0; row < mask.rows; ++row) {
    for (int key = 0; key <= row; ++key) {
      if (key < mask.sink || row - key < mask.recent) pairs.emplace(row, key);
    }
  }
  return pairs;
}

void add_seen(const WindowMask& mask, int row, int key, Pairs& pairs) {
  if (mask.sees(row, key)) pairs.emplace(row, key);
}

template <class Body>
void for_masks(const Body& body) {
  for (const int rows : {1, 5, 40, 97}) {
    for (const int sink : {0, 1, 6, 33, 200}) {
      for (const int recent : {1, 4, 30, 300, 0x7fffffff}) {
        const WindowMask mask{.rows = rows, .sink = sink, .recent = recent};
        SCOPED_TRACE(testing::Message() << rows << " rows, " << sink << " + " << recent);
        body(mask);
      }
    }
  }
}

TEST(WindowTiles, RowsMeetTheirKeysOnce) {
  for_masks([](const WindowMask& mask) {
    constexpr int kTile = 16;
    Pairs met;
    for (int first = 0; first < mask.rows; first += kTile) {
      const int last = std::min(first + kTile, mask.rows) - 1;
      const SeenKeys keys(mask, first, last);
      int tile = 0;
      for (int key = keys.after(0); key < keys.end; key = keys.after(key + tile)) {
        tile = keys.tile(key, 8);
        ASSERT_GT(tile, 0);
        for (int row = first; row <= last; ++row) {
          for (int i = 0; i < tile; ++i) add_seen(mask, row, key + i, met);
        }
      }
    }
    EXPECT_EQ(met, seen(mask));
  });
}

TEST(WindowTiles, KeysMeetTheirRowsOnce) {
  for_masks([](const WindowMask& mask) {
    const KeyPieces pieces(mask, 16);
    EXPECT_LE(pieces.runs * pieces.sinks, mask.rows);
    Pairs met;
    for (int index = 0; index < pieces.count; ++index) {
      const KeyPiece piece = pieces.piece(index);
      ASSERT_GT(piece.keys, 0);
      EXPECT_EQ(piece.run >= 0, piece.key < pieces.sinks);
      EXPECT_LE(piece.end_row, mask.rows);
      for (int row = piece.first_row; row < piece.end_row; ++row) {
        for (int i = 0; i < piece.keys; ++i) add_seen(mask, row, piece.key + i, met);
      }
    }
    EXPECT_EQ(met, seen(mask));
  });
}

// Work grows with the rows: sinks are cut by rows, other keys meet a window of them.
TEST(WindowTiles, PiecesStaySmall) {
  const WindowMask mask{.rows = 20000, .sink = 128, .recent = 256};
  const KeyPieces pieces(mask, 64);
  for (int index = 0; index < pieces.count; ++index) {
    const KeyPiece piece = pieces.piece(index);
    EXPECT_LE(piece.end_row - piece.first_row, 512) << index;
  }
}

}  // namespace
}  // namespace sedpa::cuda
