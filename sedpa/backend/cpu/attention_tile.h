#pragma once
// The tile way of attention: see attention_kernels.h. Included by attention_kernels_tile.cc alone.
//
// For one step (up to 128 keys) and one group (up to 48 rows):
//   scores[key][row]  = K[key] . Q[row]        keys broadcast, rows across the lanes
//   weights[key][row] = 2^(score - max[row])
//   out[d][row]       = out[d][row] * correction[row] + V[d] . weights[.][row]
// Both products are one micro-kernel: kBlock broadcast rows times P vectors of 16 lanes, every
// accumulator in a register, words of one number (f32) or two (bf16) a step.
#include "sedpa/backend/cpu/attention_kernels.h"
#include "sedpa/backend/cpu/attention_rows.h"

namespace sedpa::cpu::SEDPA_ISA {

// Broadcast rows and vectors that a micro-kernel holds: kBlock x kVectors accumulators.
#if SEDPA_ISA_LEVEL == 2
inline constexpr int kBlock = 8;
inline constexpr int kVectors = 3;
#elif SEDPA_ISA_LEVEL == 1
inline constexpr int kBlock = 4;
inline constexpr int kVectors = 1;
#else
inline constexpr int kBlock = 2;
inline constexpr int kVectors = 1;
#endif
static_assert(8 % kBlock == 0 && kGroupRows == 48);

/// Products of f32, a word a number.
struct F32Words {
  static constexpr int kNumbers = 1;  // of a word
  static constexpr bool kExact = true;
  using Vector = F32x16;
  static SEDPA_INLINE Vector load_words(const Word* from) { return load(from); }
  static SEDPA_INLINE Vector broadcast_word(const Word* from) {
    return broadcast(load_scalar<float>(from));
  }
  static SEDPA_INLINE F32x16 dot(F32x16 sum, Vector a, Vector b) { return fma(a, b, sum); }
  /// Two neighbours in the summed direction: two rows of words.
  static SEDPA_INLINE void store_two(Word* to, std::int64_t row, F32x16 a, F32x16 b) {
    store(to, a);
    store(to + row, b);
  }
  /// The same, each row cut in two.
  static SEDPA_INLINE void store_two_halves(Word* low, Word* high, std::int64_t row, F32x16 a,
                                            F32x16 b) {
    store_halves(low, high, a);
    store_halves(low + row, high + row, b);
  }
  /// 16 words of a row of numbers, the first `count` numbers of them, scaled; then zeros.
  static SEDPA_INLINE F32x16 words(const float* from, int count, F32x16 scale) {
    return load_partial(from, count) * scale;
  }
};

#if SEDPA_ISA_LEVEL == 2
/// Products of bf16 pairs, summed in f32.
struct Bf16Words {
  static constexpr int kNumbers = 2;
  static constexpr bool kExact = false;
  using Vector = Bf16x32;
  static SEDPA_INLINE Vector load_words(const Word* from) { return load_pairs(from); }
  static SEDPA_INLINE Vector broadcast_word(const Word* from) { return broadcast_pair(from); }
  static SEDPA_INLINE F32x16 dot(F32x16 sum, Vector a, Vector b) { return dot2(sum, a, b); }
  /// Lane i: the pair (a[i], b[i]).
  static SEDPA_INLINE F32x16 pairs(F32x16 a, F32x16 b) {
    const __m512i both = __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(b.v, a.v));
    const __m512i zip = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return {_mm512_castsi512_ps(_mm512_permutexvar_epi16(zip, both))};
  }
  /// Two neighbours in the summed direction: one row of pairs.
  static SEDPA_INLINE void store_two(Word* to, std::int64_t /*row*/, F32x16 a, F32x16 b) {
    store(to, pairs(a, b));
  }
  static SEDPA_INLINE void store_two_halves(Word* low, Word* high, std::int64_t /*row*/, F32x16 a,
                                            F32x16 b) {
    store_halves(low, high, pairs(a, b));
  }
  static SEDPA_INLINE F32x16 words(const float* from, int count, F32x16 scale) {
    const F32x16 low = load_partial(from, count) * scale;
    const F32x16 high = count > 16 ? load_partial(from + 16, count - 16) * scale : zero();
    return {__builtin_bit_cast(__m512, _mm512_cvtne2ps_pbh(high.v, low.v))};
  }
};
#endif

/// 2^x for x <= 0: minimax polynomials on [-1/2, 1/2], good to 2e-9 (before rounding) or 8e-8.
/// Scores of masked keys come out as nothing, or as 2^-126 where powers must be normal numbers.
template <bool kExact>
SEDPA_INLINE F32x16 exp2_of_negative(F32x16 x) {
#if SEDPA_ISA_LEVEL < 2
  x = max(broadcast(-126.0f), x);
#endif
  const F32x16 n = round(x);
  const F32x16 r = x - n;
  F32x16 p;
  if constexpr (kExact) {
    p = fma(broadcast(1.53458051e-4f), r, broadcast(1.33999309e-3f));
    p = fma(p, r, broadcast(9.61848907e-3f));
    p = fma(p, r, broadcast(5.55032864e-2f));
    p = fma(p, r, broadcast(2.40226462e-1f));
    p = fma(p, r, broadcast(6.93147182e-1f));
    p = fma(p, r, broadcast(1.0f));
  } else {
    p = fma(broadcast(1.32764643e-3f), r, broadcast(9.67554096e-3f));
    p = fma(p, r, broadcast(5.55071346e-2f));
    p = fma(p, r, broadcast(2.40221202e-1f));
    p = fma(p, r, broadcast(6.93146944e-1f));
    p = fma(p, r, broadcast(1.00000012f));
  }
  return scale_by_power_of_two(p, n);
}

template <class Words>
SEDPA_INLINE int steps_of(int numbers) {
  return numbers / Words::kNumbers;
}

/// Query row group g: where it lies and how wide it is.
struct Group {
  Group(const QueryTile& tile, int g, int steps)
      : first_row(g * kGroupRows),
        width(tile.rows - first_row < kGroupRows ? tile.rows - first_row : kGroupRows),
        queries(tile.queries + std::int64_t{first_row} * steps),
        out(tile.out + std::int64_t{first_row} * tile.value_dims) {}

  int first_row;
  int width;
  Word* queries;  // [steps][width]
  float* out;     // [value_dims][width]
};

SEDPA_INLINE int groups_of(const QueryTile& tile) {
  return (tile.rows + kGroupRows - 1) / kGroupRows;
}

// --- Packing
// --------------------------------------------------------------------------------------

template <class Words>
void begin_tile(const QueryTile& tile, const float* const* x, float scale) {
  const int steps = steps_of<Words>(tile.key_dim);
  for (int g = 0; g < groups_of(tile); ++g) {
    const Group group(tile, g, steps);
    for (int r = 0; r < group.width; r += 16) {
      const float* const* from = x + group.first_row + r;
      for (int k = 0; k < steps; k += 16) {
        const int first = k * Words::kNumbers;
        const int left = tile.key_dim - first;
        const int count = left < 16 * Words::kNumbers ? left : 16 * Words::kNumbers;
        F32x16 words[16];
        SEDPA_UNROLL for (int i = 0; i < 16; ++i) {
          words[i] =
              from[i] == nullptr ? zero() : Words::words(from[i] + first, count, broadcast(scale));
        }
        transpose(words);
        Word* to = group.queries + std::int64_t{k} * group.width + r;
        for (int i = 0; i < 16 && k + i < steps; ++i) {
          store(to + std::int64_t{i} * group.width, words[i]);
        }
      }
    }
  }
  for (int r = 0; r < tile.rows; ++r) {
    tile.max[r] = kNoScore;
    tile.sum[r] = 0.0f;
  }
  std::memset(tile.out, 0, sizeof(float) * static_cast<std::size_t>(tile.rows * tile.value_dims));
}

// keys [count rounded up to 8][steps], values [value_dims / 8][steps of the keys][8]; rows from
// `count` on are zeros.
template <class Words, KvDtype kType>
void pack_keys(const QueryTile& tile, const KeyTile& keys) {
  const int dim = tile.key_dim;
  const int steps = steps_of<Words>(dim);
  const int padded = (keys.count + 7) / 8 * 8;
  const RowReader<kType> read(tile.key_row_dim);
  for (int key = 0; key < padded; ++key) {
    Word* to = tile.keys + std::int64_t{key} * steps;
    if (key >= keys.count) {
      std::memset(to, 0, sizeof(Word) * static_cast<std::size_t>(steps));
      continue;
    }
    const std::byte* row = keys.keys[key];
    int d = 0;
    for (; d + 16 <= dim; d += 16) {
      const F32x16 x = read(row, d / 16);
      if constexpr (Words::kNumbers == 2) {
        store_bf16(to + d / 2, x);
      } else {
        store(to + d, x);
      }
    }
    if (d < dim) {
      const F32x16 x = read.part(row, d / 16, dim - d);
      if constexpr (Words::kNumbers == 2) {
        store_bf16_partial(to + d / 2, x, dim - d);
      } else {
        store_partial(to + d, x, dim - d);
      }
    }
  }

  const int value_dim = tile.value_dim;
  const RowReader<kType> read_row(tile.value_row_dim);
  const auto read_value = [&](int key, int d) -> F32x16 {
    if (key >= keys.count) return zero();
    const std::byte* row = keys.values[key];
    return d + 16 <= value_dim ? read_row(row, d / 16) : read_row.part(row, d / 16, value_dim - d);
  };
  const int key_steps = steps_of<Words>(kKeyTile);
  const std::int64_t block = std::int64_t{8} * key_steps;  // words of 8 dims
  for (int key = 0; key < padded; key += 2) {
    Word* to = tile.values + std::int64_t{key / Words::kNumbers} * 8;
    for (int d = 0; d < value_dim; d += 16, to += 2 * block) {
      const F32x16 one = read_value(key, d);
      const F32x16 two = read_value(key + 1, d);
      if (d + 8 < tile.value_dims) {
        Words::store_two_halves(to, to + block, 8, one, two);
      } else {
        Word unused[16];
        Words::store_two_halves(to, unused, 8, one, two);
      }
    }
  }
}

// --- The micro-kernel
// -----------------------------------------------------------------------------

/// acc[m][p] += sum over k of a[m][k] * b[k][16 p ..]: rows of `a` are `a_row` words apart, their
/// words `a_step`; rows of `b` are `b_row` words apart.
template <class Words, int P>
SEDPA_INLINE void multiply(F32x16 (&acc)[kBlock][P], const Word* a, std::int64_t a_row,
                           std::int64_t a_step, const Word* b, std::int64_t b_row, int steps) {
  for (int k = 0; k < steps; ++k) {
    typename Words::Vector across[P];
    SEDPA_UNROLL for (int p = 0; p < P; ++p) across[p] = Words::load_words(b + 16 * p);
    SEDPA_UNROLL for (int m = 0; m < kBlock; ++m) {
      const typename Words::Vector one = Words::broadcast_word(a + m * a_row);
      SEDPA_UNROLL for (int p = 0; p < P; ++p) acc[m][p] = Words::dot(acc[m][p], one, across[p]);
    }
    a += a_step;
    b += b_row;
  }
}

template <int P>
SEDPA_INLINE void clear(F32x16 (&acc)[kBlock][P]) {
  SEDPA_UNROLL for (int m = 0; m < kBlock; ++m) {
    SEDPA_UNROLL for (int p = 0; p < P; ++p) acc[m][p] = zero();
  }
}

// --- One group of rows and one step of keys
// -------------------------------------------------------

// bias[key][row] = 0 where the row sees the key, else kMaskedScore.
inline void fill_bias(const QueryTile& tile, const Group& group, const KeyTile& keys,
                      const GroupKeys& seen) {
  const std::int32_t* row_position = tile.position + group.first_row;
  const std::int32_t* row_stride = tile.stride + group.first_row;
  for (int key = seen.begin; key < seen.end; ++key) {
    float* bias = tile.bias + std::int64_t{key} * kGroupRows;
    const std::int32_t j = keys.positions[key];
    if (tile.full || j < tile.sink) {
      for (int r = 0; r < group.width; ++r) bias[r] = j <= row_position[r] ? 0.0f : kMaskedScore;
      continue;
    }
    for (int r = 0; r < group.width; ++r) {
      const std::int32_t back = row_position[r] - j;
      // Strides are powers of two; 0 stands for none, and then every bit of j counts: j > 0 here
      // unless sink = 0, where j = 0 must not pass either.
      const bool sampled = row_stride[r] != 0 && (j & (row_stride[r] - 1)) == 0;
      const bool visible = back >= 0 && (back < tile.recent || sampled);
      bias[r] = visible ? 0.0f : kMaskedScore;
    }
  }
}

/// Scores of vectors [0, P) from `lane` on, and their maximum over the keys.
template <class Words, int P, bool kMasked>
SEDPA_INLINE void score(const QueryTile& tile, const Group& group, const GroupKeys& seen, int lane,
                        int steps, F32x16 (&highest)[P]) {
  SEDPA_UNROLL for (int p = 0; p < P; ++p) highest[p] = broadcast(kNoScore);
  for (int key = seen.begin; key < seen.end; key += kBlock) {
    F32x16 acc[kBlock][P];
    clear(acc);
    multiply<Words, P>(acc, tile.keys + std::int64_t{key} * steps, steps, 1, group.queries + lane,
                       group.width, steps);
    SEDPA_UNROLL for (int m = 0; m < kBlock; ++m) {
      const std::int64_t at = std::int64_t{key + m} * kGroupRows + lane;
      SEDPA_UNROLL for (int p = 0; p < P; ++p) {
        F32x16 s = acc[m][p];
        if constexpr (kMasked) s = s + load(tile.bias + at + 16 * p);
        highest[p] = max(highest[p], s);
        store(tile.scores + at + 16 * p, s);
      }
    }
  }
}

/// Softmax weights of 16 rows against their new maximum. Returns what old results are scaled by.
template <class Words>
SEDPA_INLINE F32x16 weigh(const QueryTile& tile, const GroupKeys& seen, int row, int lane,
                          F32x16 highest) {
  const F32x16 old_max = load(tile.max + row);
  const F32x16 new_max = max(old_max, highest);
  F32x16 sums[2] = {zero(), zero()};
  for (int key = seen.begin; key < seen.end; key += 2) {
    const float* scores = tile.scores + std::int64_t{key} * kGroupRows + lane;
    const F32x16 a = exp2_of_negative<Words::kExact>(load(scores) - new_max);
    const F32x16 b = exp2_of_negative<Words::kExact>(load(scores + kGroupRows) - new_max);
    sums[0] = sums[0] + a;
    sums[1] = sums[1] + b;
    Word* to = tile.weights + std::int64_t{key / Words::kNumbers} * kGroupRows + lane;
    Words::store_two(to, kGroupRows, a, b);
  }
  const F32x16 correction = exp2_of_negative<true>(old_max - new_max);
  store(tile.max + row, new_max);
  store(tile.sum + row, fma(load(tile.sum + row), correction, sums[0] + sums[1]));
  return correction;
}

template <class Words, int P>
SEDPA_INLINE void step_vectors(const QueryTile& tile, const Group& group, const GroupKeys& seen,
                               int lane, int steps) {
  F32x16 highest[P];
  if (seen.masked)
    score<Words, P, true>(tile, group, seen, lane, steps, highest);
  else
    score<Words, P, false>(tile, group, seen, lane, steps, highest);
  F32x16 correction[P];
  SEDPA_UNROLL for (int p = 0; p < P; ++p) {
    const int at = lane + 16 * p;
    correction[p] = weigh<Words>(tile, seen, group.first_row + at, at, highest[p]);
  }

  const int key_steps = steps_of<Words>(kKeyTile);
  const int first = steps_of<Words>(seen.begin);
  const int count = steps_of<Words>(seen.end - seen.begin);
  for (int d = 0; d < tile.value_dims; d += kBlock) {
    F32x16 acc[kBlock][P];
    clear(acc);
    const Word* values = tile.values + (std::int64_t{d / 8} * key_steps + first) * 8 + d % 8;
    multiply<Words, P>(acc, values, 1, 8, tile.weights + std::int64_t{first} * kGroupRows + lane,
                       kGroupRows, count);
    SEDPA_UNROLL for (int m = 0; m < kBlock; ++m) {
      float* out = group.out + std::int64_t{d + m} * group.width + lane;
      SEDPA_UNROLL for (int p = 0; p < P; ++p) {
        store(out + 16 * p, fma(load(out + 16 * p), correction[p], acc[m][p]));
      }
    }
  }
}

/// Asks for share g of the next step's rows.
SEDPA_INLINE void fetch_next(const KeyTile& keys, int g, int groups) {
  for (int key = keys.next_count * g / groups; key < keys.next_count * (g + 1) / groups; ++key) {
    prefetch(keys.next_keys[key], keys.key_row_bytes);
    prefetch(keys.next_values[key], keys.value_row_bytes);
  }
}

template <class Words>
void step_tile(const QueryTile& tile, KvDtype dtype, const KeyTile& keys) {
#define SEDPA_PACK(TYPE) pack_keys<Words, TYPE>(tile, keys)
  SEDPA_FOR_KV_DTYPE(dtype, SEDPA_PACK)
#undef SEDPA_PACK
  const int steps = steps_of<Words>(tile.key_dim);
  const int groups = groups_of(tile);
  for (int g = 0; g < groups; ++g) {
    fetch_next(keys, g, groups);
    const GroupKeys& seen = keys.groups[g];
    if (seen.begin >= seen.end) continue;
    const Group group(tile, g, steps);
    if (seen.masked) fill_bias(tile, group, keys, seen);
    int lane = 0;
    for (; lane + 16 * kVectors <= group.width; lane += 16 * kVectors) {
      step_vectors<Words, kVectors>(tile, group, seen, lane, steps);
    }
    if constexpr (kVectors > 2) {
      for (; lane + 32 <= group.width; lane += 32) {
        step_vectors<Words, 2>(tile, group, seen, lane, steps);
      }
    }
    if constexpr (kVectors > 1) {
      for (; lane < group.width; lane += 16) {
        step_vectors<Words, 1>(tile, group, seen, lane, steps);
      }
    }
  }
}

// --- The result
// -----------------------------------------------------------------------------------

inline void end_tile(const QueryTile& tile, bool divide, float* const* out) {
  for (int g = 0; g < groups_of(tile); ++g) {
    const Group group(tile, g, 0);
    for (int r = 0; r < group.width; r += 16) {
      float* const* to = out + group.first_row + r;
      const F32x16 one = broadcast(1.0f);
      const F32x16 scale = divide ? one / load(tile.sum + group.first_row + r) : one;
      for (int d = 0; d < tile.value_dim; d += 16) {
        const int count = tile.value_dim - d < 16 ? tile.value_dim - d : 16;
        F32x16 numbers[16];  // [dim][row], then [row][dim]
        SEDPA_UNROLL for (int i = 0; i < 16; ++i) {
          const float* from = group.out + std::int64_t{d + i} * group.width + r;
          numbers[i] = i < count ? load(from) * scale : zero();
        }
        transpose(numbers);
        SEDPA_UNROLL for (int i = 0; i < 16; ++i) {
          if (to[i] != nullptr) store_partial(to[i] + d, numbers[i], count);
        }
      }
    }
  }
}

}  // namespace sedpa::cpu::SEDPA_ISA
