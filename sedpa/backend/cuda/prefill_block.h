#pragma once
// Which query rows a block of the prefill kernels has, and which keys they can see. Integers only.
#include <cstdint>

#include "sedpa/backend/cuda/attention_params.h"

namespace sedpa::cuda {

struct PrefillBlock {
  std::int32_t head_class = 0;
  std::int32_t head = 0;       // in its class
  std::int32_t kv_head = 0;    // of the model
  std::int32_t first_row = 0;  // query rows count token * group + query of the group
  std::int32_t first_token = 0;
  std::int32_t last_token = 0;
  std::int32_t stored = 0;  // slots [0, stored) hold what the rows may see
  OwnKeys own;              // of the chunk
  std::int32_t keys = 0;    // of a tile
  std::int32_t stored_tiles = 0;
  std::int32_t tiles = 0;
  bool full = true;
  std::int32_t recent = 0;

  /// Block `index` of a launch: some heads at a time (`heads_together`), and of these the last rows
  /// first, since they take longest.
  static constexpr PrefillBlock make(const AttentionParams& p, const PrefillRoom& scratch, int rows,
                                     int keys, int index) {
    PrefillBlock block;
    const int all_rows = scratch.tokens * p.group;
    const int blocks = (all_rows + rows - 1) / rows;  // of a head
    const int first_heads = p.classes[0].heads;
    block.head_class = index < first_heads * blocks ? 0 : 1;
    if (block.head_class == 1) index -= first_heads * blocks;
    const ClassParams& of = p.classes[block.head_class];
    const int most = scratch.heads_together;
    const int before = index / (most * blocks) * most;  // heads
    const int together = of.heads - before < most ? of.heads - before : most;
    index -= before * blocks;
    block.head = before + index % together;
    block.kv_head = p.kv_head(block.head_class, block.head);
    block.first_row = (blocks - 1 - index / together) * rows;
    const int last_row = block.first_row + rows < all_rows ? block.first_row + rows : all_rows;
    block.first_token = block.first_row / p.group;
    block.last_token = (last_row - 1) / p.group;

    block.stored = used_slots(of, scratch.past);
    // No row sees a stored key that is neither sink nor sampled once the youngest has left the
    // oldest row's window.
    if (!of.full && of.middle == 0 && block.first_token >= of.recent - 1 &&
        of.sink < block.stored) {
      block.stored = of.sink;
    }
    block.own = OwnKeys::make(of, scratch.past, block.first_token, block.last_token);
    block.keys = keys;
    block.stored_tiles = (block.stored + keys - 1) / keys;
    block.tiles = block.stored_tiles + (block.own.count() + keys - 1) / keys;
    block.full = of.full;
    block.recent = of.recent;
    return block;
  }

  /// Whether some row does not see some key of a tile.
  [[nodiscard]] constexpr bool masked(int tile) const {
    if (tile < stored_tiles) return !full || (tile + 1) * keys > stored;
    const int first = (tile - stored_tiles) * keys;
    const int last = first + keys - 1;
    if (last >= own.count() || own.row(last) > first_token) return true;
    return !full && (first < own.sinks + own.middle || last_token - own.row(first) >= recent);
  }
};

}  // namespace sedpa::cuda
