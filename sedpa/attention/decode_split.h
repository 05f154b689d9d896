#pragma once
// Who reads which keys when one token attends: the keys of all heads of a layer stand in one line
// of tiles, and the line is cut into equal contiguous pieces. Every thread block finds its piece by
// arithmetic, so that a launch with a fixed grid serves all lengths and all head plans. Integers
// only, for host and device.
//
// A unit is a head (or 16 query rows of one): units of class 0 stand before those of class 1, and
// all units of a class have the same number of tiles, at least one. A unit that several pieces
// touch is put together from their parts. Part (piece, unit) has its own place: piece + unit, since
// either the piece or the unit is a later one.
#include <cstdint>

#include "sedpa/attention/head_plan.h"

namespace sedpa {

struct DecodeSplit {
  std::int64_t tiles[kHeadClasses] = {};  // of one unit of a class, >= 1
  std::int64_t units[kHeadClasses] = {};
  std::int64_t pieces = 0;  // 1 to total()

  /// At most `most_pieces` pieces of `least_tiles` tiles or more.
  static constexpr DecodeSplit make(const std::int64_t (&tiles)[kHeadClasses],
                                    const std::int64_t (&units)[kHeadClasses],
                                    std::int64_t most_pieces, std::int64_t least_tiles) {
    DecodeSplit split;
    for (int i = 0; i < kHeadClasses; ++i) {
      split.tiles[i] = tiles[i] < 1 ? 1 : tiles[i];
      split.units[i] = units[i];
    }
    split.pieces = split.total() / least_tiles;
    if (split.pieces > most_pieces) split.pieces = most_pieces;
    if (split.pieces < 1) split.pieces = 1;
    return split;
  }

  /// Tiles in the line.
  [[nodiscard]] constexpr std::int64_t total() const {
    return tiles[0] * units[0] + tiles[1] * units[1];
  }
  /// First tile of a piece; of piece `pieces`: the line's end.
  [[nodiscard]] constexpr std::int64_t piece_begin(std::int64_t piece) const {
    return total() * piece / pieces;
  }
  /// The piece that has a tile.
  [[nodiscard]] constexpr std::int64_t piece_of(std::int64_t tile) const {
    return ((tile + 1) * pieces - 1) / total();
  }
  /// The unit that has a tile.
  [[nodiscard]] constexpr std::int64_t unit_of(std::int64_t tile) const {
    const std::int64_t second = tiles[0] * units[0];
    return tile < second ? tile / tiles[0] : units[0] + (tile - second) / tiles[1];
  }
  [[nodiscard]] constexpr int class_of(std::int64_t unit) const { return unit < units[0] ? 0 : 1; }
  /// First tile of a unit; of the unit after the last: the line's end.
  [[nodiscard]] constexpr std::int64_t unit_begin(std::int64_t unit) const {
    return unit <= units[0] ? tiles[0] * unit : tiles[0] * units[0] + tiles[1] * (unit - units[0]);
  }
  /// Place of the part that a piece makes of a unit, in [0, pieces + units).
  static constexpr std::int64_t part(std::int64_t piece, std::int64_t unit) { return piece + unit; }
};

}  // namespace sedpa
