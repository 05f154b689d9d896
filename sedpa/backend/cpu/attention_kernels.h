#pragma once
// The loops of CPU attention as a table of functions, compiled once for each instruction set. Plain
// pointers and numbers; which keys a query sees, and who does which piece, is decided in
// attention.cc.
//
// Two ways to the same result, both an online softmax (attention/online_softmax.h) in base 2: the
// queries are scaled by log2(e) times the score scale.
//
//   tile    many query rows at once (prefill). Query rows lie across the lanes, 16 a vector, in
//           groups of up to 48, so that the softmax of 16 rows is one vector operation and nothing
//           is summed across lanes. Keys and values are converted once for all rows of the tile
//           and broadcast from there.
//   direct  the few rows of one token (decode). Numbers of a head lie across the lanes; cache rows
//           are read once, in place, at memory speed.
//
// Products of the tile way are of bf16 pairs where the table says `pairs`, else of f32; sums are
// always f32.
#include <cstddef>
#include <cstdint>

#include "sedpa/backend/cpu/cpu_ops.h"
#include "sedpa/core/dtype.h"

namespace sedpa::cpu {

inline constexpr int kKeyTile = 128;    // keys of one step of the tile way
inline constexpr int kTileRows = 192;   // query rows that a tile aims at
inline constexpr int kGroupRows = 48;   // query rows that share a pass over the keys
inline constexpr int kDirectKeys = 64;  // keys of one step of the direct way
inline constexpr int kDirectRows = 4;   // query rows that share a pass over the keys

/// A score that no key reaches, and the maximum before any key: far enough apart that a masked
/// score counts for nothing even then.
inline constexpr float kMaskedScore = -1e38f;
inline constexpr float kNoScore = -1e30f;

/// A 32-bit word: one f32, or two bf16 numbers that follow each other in the summed direction.
using Word = std::uint32_t;

/// A tile of query rows and its running result. `rows` is a multiple of 16; group g holds rows
/// [48 g, 48 g + width), width = 48 but for the last group (16, 32 or 48), and group buffers stand
/// one after the other. steps = key_dim / 2 for pairs, else key_dim; value_dims = value_dim rounded
/// up to 8.
struct QueryTile {
  int rows = 0;
  int key_dim = 0;        // numbers of a query and of the head's keys
  int value_dim = 0;      // numbers of the head's values and of a result
  int key_row_dim = 0;    // numbers of a stored key row, of which the first key_dim are read
  int value_row_dim = 0;  // numbers of a stored value row
  int value_dims = 0;
  Word* queries = nullptr;                 // groups of [steps][width]
  float* out = nullptr;                    // groups of [value_dims][width], not yet divided by sum
  float* max = nullptr;                    // [rows], base 2
  float* sum = nullptr;                    // [rows]
  const std::int32_t* position = nullptr;  // [rows]
  const std::int32_t* stride = nullptr;    // [rows], of the middle sample; 0 where there is none
  // The class: window queries see the last `recent` positions and those below `sink` too.
  bool full = true;
  std::int32_t sink = 0;
  std::int32_t recent = 0;
  // Room for one step.
  Word* keys = nullptr;     // [kKeyTile][steps]
  Word* values = nullptr;   // [value_dims / 8][kKeyTile as steps][8]
  float* scores = nullptr;  // [kKeyTile][48]
  Word* weights = nullptr;  // [kKeyTile as steps][48]
  float* bias = nullptr;    // [kKeyTile][48]
};

/// What one group of rows sees of a key tile: keys [begin, end), multiples of 8.
struct GroupKeys {
  int begin = 0;
  int end = 0;
  bool masked = false;  // some row of the group does not see some key of these
};

/// Up to kKeyTile keys. Rows are in the cache's encoding, wherever they stand.
struct KeyTile {
  const std::byte* const* keys = nullptr;    // [count]
  const std::byte* const* values = nullptr;  // [count]
  // [count rounded up to 8], ascending; the padding's positions are above any query's.
  const std::int32_t* positions = nullptr;
  int count = 0;
  const GroupKeys* groups = nullptr;  // [groups of the tile]
  // The step after this: fetched early.
  const std::byte* const* next_keys = nullptr;    // [next_count]
  const std::byte* const* next_values = nullptr;  // [next_count]
  int next_count = 0;
  std::int64_t key_row_bytes = 0;
  std::int64_t value_row_bytes = 0;
};

/// The query rows of one token that share a KV head.
struct DirectRows {
  int rows = 0;
  int key_dim = 0;                 // as in QueryTile
  int value_dim = 0;               //
  int key_row_dim = 0;             //
  int value_row_dim = 0;           //
  int padded = 0;                  // a multiple of 16, no less than either
  const float* queries = nullptr;  // [rows][padded], scaled, zeros behind key_dim
  float* max = nullptr;            // [rows], base 2
  float* sum = nullptr;            // [rows]
  float* out = nullptr;            // [rows][padded], not yet divided by sum
  float* scores = nullptr;         // [kDirectRows][kDirectKeys]
  float* parts = nullptr;          // [kDirectRows][kDirectKeys][4], room for one step
};

/// Up to kDirectKeys keys, all seen. Rows further on are fetched early: as many, if there are.
struct DirectKeys {
  const std::byte* const* keys = nullptr;    // [count]
  const std::byte* const* values = nullptr;  // [count]
  int count = 0;
  const std::byte* const* later_keys = nullptr;    // [later_count]
  const std::byte* const* later_values = nullptr;  // [later_count]
  int later_count = 0;
  std::int64_t key_row_bytes = 0;
  std::int64_t value_row_bytes = 0;
};

struct AttentionKernels {
  /// Encodes a head vector, and zeros behind it, as a cache row of row_dim numbers. x [dim]; the
  /// layout is kv_policy.h's.
  void (*encode)(KvDtype dtype, const float* x, std::int64_t dim, std::int64_t row_dim,
                 std::byte* row);
  /// Decodes it.
  void (*decode)(KvDtype dtype, const std::byte* row, std::int64_t dim, float* x);

  /// By Compute: whether products of the tile way are of bf16 pairs.
  bool pairs[2];
  /// Packs query rows (x[r] [key_dim], or null for padding), scaled, and clears the running result.
  void (*begin_tile[2])(const QueryTile& tile, const float* const* x, float scale);
  /// Takes in one step of keys.
  void (*step_tile[2])(const QueryTile& tile, KvDtype dtype, const KeyTile& keys);
  /// Writes row r of the result to out[r] [value_dim], divided by its sum if `divide`. Null: not
  /// wanted.
  void (*end_tile)(const QueryTile& tile, bool divide, float* const* out);

  void (*step_direct)(const DirectRows& rows, KvDtype dtype, const DirectKeys& keys);
};

/// Throws Error when this machine cannot run `isa` or the program does not have it.
[[nodiscard]] const AttentionKernels& attention_kernels(Isa isa);

}  // namespace sedpa::cpu
