#pragma once
// Who reads which keys when one token attends. Every thread block finds its piece by arithmetic, so
// that a launch with a fixed grid serves all lengths and all head plans. Integers only, for host
// and device.
//
// A unit is a head (or 16 query rows of one); all units of a class have the same number of tiles of
// keys, at least one. Long units are cut into parts, a piece each; short ones go together, several
// to a piece. No piece has a part of a unit and something else: to begin another unit costs more
// time than the tiles that equal pieces would save.
#include <cstdint>

#include "sedpa/attention/head_plan.h"

namespace sedpa {

struct DecodeSplit {
  std::int32_t tiles[kHeadClasses] = {};  // of a unit, >= 1
  std::int32_t units[kHeadClasses] = {};
  std::int32_t parts[kHeadClasses] = {};   // of a unit, >= 1
  std::int32_t bundle[kHeadClasses] = {};  // units of a piece, >= 1; 1 where there are parts
  std::int32_t pieces[kHeadClasses] = {};

  /// What a piece has: some units of a class, and the same tiles of each of them.
  struct Piece {
    std::int32_t head_class = 0;
    std::int32_t first_unit = 0;  // of the class
    std::int32_t units = 0;
    std::int32_t part = 0;
    std::int32_t first_tile = 0;  // of each unit
    std::int32_t end_tile = 0;

    [[nodiscard]] constexpr std::int32_t unit_tiles() const { return end_tile - first_tile; }
    [[nodiscard]] constexpr std::int32_t total() const { return units * unit_tiles(); }
  };

  /// At most `most_pieces` >= 2 pieces, the longest as short as that allows, but no part below
  /// `least_tiles`. A unit more in a piece counts as `unit_cost` tiles.
  static constexpr DecodeSplit make(const std::int32_t (&tiles)[kHeadClasses],
                                    const std::int32_t (&units)[kHeadClasses],
                                    std::int32_t most_pieces, std::int32_t least_tiles,
                                    std::int32_t unit_cost) {
    DecodeSplit split;
    std::int64_t total = 0;
    for (int i = 0; i < kHeadClasses; ++i) {
      split.tiles[i] = tiles[i] < 1 ? 1 : tiles[i];
      split.units[i] = units[i];
      total += std::int64_t{split.tiles[i]} * units[i];
    }
    auto most_tiles = static_cast<std::int32_t>((total + most_pieces - 1) / most_pieces);
    if (most_tiles < least_tiles) most_tiles = least_tiles;
    while (!split.cut(most_tiles, most_pieces, unit_cost)) most_tiles += 1 + most_tiles / 64;
    return split;
  }

  [[nodiscard]] constexpr std::int32_t count() const { return pieces[0] + pieces[1]; }
  [[nodiscard]] constexpr Piece piece(std::int32_t index) const {
    Piece piece;
    piece.head_class = index < pieces[0] ? 0 : 1;
    const int i = piece.head_class;
    if (i > 0) index -= pieces[0];
    piece.part = index % parts[i];
    piece.first_unit = index / parts[i] * bundle[i];
    const std::int32_t left = units[i] - piece.first_unit;
    piece.units = left < bundle[i] ? left : bundle[i];
    piece.first_tile = begin_of(piece.part, i);
    piece.end_tile = begin_of(piece.part + 1, i);
    return piece;
  }

 private:
  [[nodiscard]] constexpr std::int32_t begin_of(std::int32_t part, int i) const {
    return static_cast<std::int32_t>(std::int64_t{tiles[i]} * part / parts[i]);
  }
  constexpr bool cut(std::int32_t most_tiles, std::int32_t most_pieces, std::int32_t unit_cost) {
    for (int i = 0; i < kHeadClasses; ++i) {
      parts[i] = (tiles[i] + most_tiles - 1) / most_tiles;
      bundle[i] = parts[i] > 1 ? 1 : (most_tiles + unit_cost) / (tiles[i] + unit_cost);
      pieces[i] = (units[i] + bundle[i] - 1) / bundle[i] * parts[i];
    }
    return count() <= most_pieces;
  }
};

}  // namespace sedpa
