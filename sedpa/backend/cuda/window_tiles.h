#pragma once
// How training's windowed attention is cut into pieces. Plain arithmetic, shared by the kernels and
// their launches.
//
// A row sees the first `sink` keys up to its own and the `recent` last ones (TrainOps). A key is
// seen by few rows, but a sink by all that follow: the sinks' gradients are summed over runs of
// rows, and the runs afterwards, always in the same order.
#include <cstdint>

#include "sedpa/core/checked.h"

namespace sedpa::cuda {

/// Rows and keys are positions of the sequence, which is below 2^30.
struct WindowMask {
  std::int32_t rows = 0;  // of the sequence
  std::int32_t sink = 0;
  std::int32_t recent = 1;

  [[nodiscard]] constexpr bool sees(std::int32_t row, std::int32_t key) const {
    return key <= row && (key < sink || row - key < recent);
  }
};

/// The keys that some row of [first, last] sees: [0, sinks) and [tail_first, end).
struct SeenKeys {
  std::int32_t sinks = 0;
  std::int32_t tail_first = 0;
  std::int32_t end = 0;

  constexpr SeenKeys(const WindowMask& mask, std::int32_t first, std::int32_t last)
      : sinks(mask.sink < last + 1 ? mask.sink : last + 1),
        tail_first(first - mask.recent + 1 > sinks ? first - mask.recent + 1 : sinks),
        end(last + 1) {}

  /// Walks over tiles: `for (key = after(0); key < end; key = after(key + tile(key, most)))`.
  [[nodiscard]] constexpr std::int32_t after(std::int32_t key) const {
    return key >= sinks && key < tail_first ? tail_first : key;
  }
  /// Keys of the tile that begins at `key`: no tile holds both runs.
  [[nodiscard]] constexpr std::int32_t tile(std::int32_t key, std::int32_t most) const {
    const std::int32_t left = (key < sinks ? sinks : end) - key;
    return left < most ? left : most;
  }
};

/// Keys [key, key + keys), all sinks or none, and the rows [first_row, end_row) whose share of
/// their gradient is summed.
struct KeyPiece {
  std::int32_t key = 0;
  std::int32_t keys = 0;
  std::int32_t first_row = 0;
  std::int32_t end_row = 0;
  std::int32_t run = -1;  // of rows, for sinks; -1: these are all rows
};

struct KeyPieces {
  WindowMask mask;
  std::int32_t tile = 1;   // keys of a piece
  std::int32_t sinks = 0;  // keys of the sequence that are sinks
  std::int32_t sink_tiles = 0;
  std::int32_t runs = 0;  // that the rows are divided into, for sinks
  std::int32_t run_rows = 0;
  std::int32_t count = 0;  // pieces

  constexpr KeyPieces(const WindowMask& window, std::int32_t tile_keys)
      : mask(window), tile(tile_keys), sinks(mask.sink < mask.rows ? mask.sink : mask.rows) {
    if (sinks > 0) {
      sink_tiles = ceil_div(sinks, tile);
      // As many rows as see another key, or more where memory asks for it: runs * sinks <= rows.
      const std::int32_t wanted = ceil_div(mask.rows, kRunRows);
      const std::int32_t fit = mask.rows / sinks;
      runs = wanted < fit ? wanted : fit;
      run_rows = ceil_div(mask.rows, runs);
    }
    count = sink_tiles * runs + ceil_div(mask.rows - sinks, tile);
  }

  /// The sinks' pieces, which are the longest, come first.
  [[nodiscard]] constexpr KeyPiece piece(std::int32_t index) const {
    const std::int32_t rows = mask.rows;
    KeyPiece piece;
    if (index < sink_tiles * runs) {
      piece.key = index / runs * tile;
      piece.keys = sinks - piece.key < tile ? sinks - piece.key : tile;
      piece.run = index % runs;
      const std::int32_t first = piece.run * run_rows;
      piece.first_row = first > piece.key ? first : piece.key;
      piece.end_row = rows - first < run_rows ? rows : first + run_rows;
    } else {
      piece.key = sinks + (index - sink_tiles * runs) * tile;
      piece.keys = rows - piece.key < tile ? rows - piece.key : tile;
      piece.first_row = piece.key;
      const std::int32_t more = rows - piece.key - piece.keys + 1;
      piece.end_row = mask.recent < more ? piece.key + piece.keys - 1 + mask.recent : rows;
    }
    return piece;
  }

 private:
  static constexpr std::int32_t kRunRows = 512;
};

}  // namespace sedpa::cuda
