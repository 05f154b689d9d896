#pragma once
// The direct way of attention: see attention_kernels.h. Included by attention_kernels_direct.cc
// alone. Up to 4 query rows share a pass over 32 keys, 4 keys at a time; with more rows the keys
// come from the first-level cache again.
#include "sedpa/backend/cpu/attention_kernels.h"
#include "sedpa/backend/cpu/attention_rows.h"

namespace sedpa::cpu::SEDPA_ISA {

/// The first step of summing the lanes of four vectors, kept in 16 numbers; finish_sums does the
/// rest for 16 vectors together: fewer operations, and no waiting for each of them.
SEDPA_INLINE void start_sums(float* out, F32x16 a, F32x16 b, F32x16 c, F32x16 d) {
#if SEDPA_ISA_LEVEL == 2
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
  const __m512 quads = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, _MM_SHUFFLE(1, 0, 1, 0)),
                                     _mm512_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 2, 3, 2)));
  _mm512_storeu_ps(out, quads);  // each quarter: a part of a, b, c and d
#elif SEDPA_ISA_LEVEL == 1
  const __m256 ab = _mm256_hadd_ps(_mm256_add_ps(a.lo, a.hi), _mm256_add_ps(b.lo, b.hi));
  const __m256 cd = _mm256_hadd_ps(_mm256_add_ps(c.lo, c.hi), _mm256_add_ps(d.lo, d.hi));
  const __m256 quads = _mm256_hadd_ps(ab, cd);
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1)));
#else
  out[0] = reduce_sum(a);
  out[1] = reduce_sum(b);
  out[2] = reduce_sum(c);
  out[3] = reduce_sum(d);
#endif
}

/// The sums of 16 vectors, whose four groups of four were started in parts[0], [16], [32] and [48].
SEDPA_INLINE F32x16 finish_sums(const float* parts) {
#if SEDPA_ISA_LEVEL == 2
  const __m512 a = _mm512_loadu_ps(parts);
  const __m512 b = _mm512_loadu_ps(parts + 16);
  const __m512 c = _mm512_loadu_ps(parts + 32);
  const __m512 d = _mm512_loadu_ps(parts + 48);
  const __m512 ab =
      _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const __m512 cd =
      _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  return {_mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd))};
#else
  float sums[16];
  for (int i = 0; i < 4; ++i) std::memcpy(sums + 4 * i, parts + 16 * i, 16);
  return load(sums);
#endif
}

/// 2^x for x <= 0, to about 1 ulp.
SEDPA_INLINE F32x16 direct_exp2(F32x16 x) {
  x = max(broadcast(-126.0f), x);
  const F32x16 n = round(x);
  const F32x16 r = x - n;
  F32x16 p = fma(broadcast(1.53458051e-4f), r, broadcast(1.33999309e-3f));
  p = fma(p, r, broadcast(9.61848907e-3f));
  p = fma(p, r, broadcast(5.55032864e-2f));
  p = fma(p, r, broadcast(2.40226462e-1f));
  p = fma(p, r, broadcast(6.93147182e-1f));
  p = fma(p, r, broadcast(1.0f));
  return scale_by_power_of_two(p, n);
}

// scores[r][key] for R rows; the lanes from `count` up to a multiple of 16 are masked.
template <KvDtype kType, int R>
SEDPA_INLINE void direct_scores(const DirectRows& rows, int first_row, const DirectKeys& keys) {
  const RowReader<kType> read(rows.key_row_dim);
  const int whole = rows.key_dim / 16;
  const int rest = rows.key_dim % 16;
  const float* queries = rows.queries + std::int64_t{first_row} * rows.padded;
  for (int key = 0; key < keys.count; key += 4) {
    const std::byte* from[4];
    for (int i = 0; i < 4; ++i) {
      const int at = key + i < keys.count ? key + i : keys.count - 1;
      from[i] = keys.keys[at];
      if (first_row == 0 && key + i < keys.later_count) {
        prefetch(keys.later_keys[key + i], keys.key_row_bytes);
      }
    }
    F32x16 acc[R][4];
    SEDPA_UNROLL for (int r = 0; r < R; ++r) {
      SEDPA_UNROLL for (int i = 0; i < 4; ++i) acc[r][i] = zero();
    }
    int v = 0;
    for (; v + 2 <= whole; v += 2) {
      F32x16 low[4];
      F32x16 high[4];
      SEDPA_UNROLL for (int i = 0; i < 4; ++i) read.two(from[i], v, low[i], high[i]);
      SEDPA_UNROLL for (int r = 0; r < R; ++r) {
        const F32x16 query_low = load(queries + r * rows.padded + 16 * v);
        const F32x16 query_high = load(queries + r * rows.padded + 16 * v + 16);
        SEDPA_UNROLL for (int i = 0; i < 4; ++i) acc[r][i] = fma(low[i], query_low, acc[r][i]);
        SEDPA_UNROLL for (int i = 0; i < 4; ++i) acc[r][i] = fma(high[i], query_high, acc[r][i]);
      }
    }
    if (v < whole) {
      SEDPA_UNROLL for (int i = 0; i < 4; ++i) {
        const F32x16 numbers = read(from[i], v);
        SEDPA_UNROLL for (int r = 0; r < R; ++r) {
          acc[r][i] = fma(numbers, load(queries + r * rows.padded + 16 * v), acc[r][i]);
        }
      }
    }
    if (rest > 0) {
      SEDPA_UNROLL for (int i = 0; i < 4; ++i) {
        const F32x16 numbers = read.part(from[i], whole, rest);
        SEDPA_UNROLL for (int r = 0; r < R; ++r) {
          const F32x16 query = load(queries + r * rows.padded + 16 * whole);
          acc[r][i] = fma(numbers, query, acc[r][i]);
        }
      }
    }
    SEDPA_UNROLL for (int r = 0; r < R; ++r) {
      start_sums(rows.parts + (r * kDirectKeys + key) * 4, acc[r][0], acc[r][1], acc[r][2],
                 acc[r][3]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int key = 0; key < keys.count; key += 16) {
      const int at = r * kDirectKeys + key;
      store(rows.scores + at, finish_sums(rows.parts + at * 4));
    }
  }
  for (int r = 0; r < R; ++r) {
    float* scores = rows.scores + r * kDirectKeys;
    for (int key = keys.count; key % 16 != 0; ++key) scores[key] = kMaskedScore;
  }
}

// Turns a row's scores into weights. Returns what its old result is scaled by.
SEDPA_INLINE float direct_weights(const DirectRows& rows, int row, float* scores, int count) {
  F32x16 highest = broadcast(kNoScore);
  for (int key = 0; key < count; key += 16) highest = max(highest, load(scores + key));
  const float block_max = reduce_max(highest);
  const float new_max = block_max > rows.max[row] ? block_max : rows.max[row];
  F32x16 sums = zero();
  for (int key = 0; key < count; key += 16) {
    const F32x16 weights = direct_exp2(load(scores + key) - broadcast(new_max));
    sums = sums + weights;
    store(scores + key, weights);
  }
  float correction[16];
  store(correction, direct_exp2(broadcast(rows.max[row] - new_max)));
  rows.max[row] = new_max;
  rows.sum[row] = rows.sum[row] * correction[0] + reduce_sum(sums);
  return correction[0];
}

// out[r] = out[r] * correction[r] + weights . values, for V vectors of 16 numbers from `first` on;
// with V = 1 it may be short, else `first` is even.
template <KvDtype kType, int R, int V>
SEDPA_INLINE void direct_values(const DirectRows& rows, int first_row, const DirectKeys& keys,
                                const float* correction, int first, bool fetch) {
  const RowReader<kType> read(rows.value_row_dim);
  const int rest = rows.value_dim - 16 * first;  // numbers of the last vector
  F32x16 acc[R][V];
  SEDPA_UNROLL for (int r = 0; r < R; ++r) {
    SEDPA_UNROLL for (int v = 0; v < V; ++v) acc[r][v] = zero();
  }
  for (int key = 0; key < keys.count; ++key) {
    const std::byte* from = keys.values[key];
    if (fetch && key < keys.later_count) prefetch(keys.later_values[key], keys.value_row_bytes);
    F32x16 numbers[V];
    if constexpr (V == 1) {
      numbers[0] = rest >= 16 ? read(from, first) : read.part(from, first, rest);
    } else {
      SEDPA_UNROLL for (int v = 0; v < V; v += 2) {
        read.two(from, first + v, numbers[v], numbers[v + 1]);
      }
    }
    SEDPA_UNROLL for (int r = 0; r < R; ++r) {
      const F32x16 weight = broadcast(rows.scores[r * kDirectKeys + key]);
      SEDPA_UNROLL for (int v = 0; v < V; ++v) acc[r][v] = fma(weight, numbers[v], acc[r][v]);
    }
  }
  SEDPA_UNROLL for (int r = 0; r < R; ++r) {
    float* out = rows.out + std::int64_t{first_row + r} * rows.padded + 16 * first;
    SEDPA_UNROLL for (int v = 0; v < V; ++v) {
      store(out + 16 * v, fma(load(out + 16 * v), broadcast(correction[r]), acc[r][v]));
    }
  }
}

template <KvDtype kType, int R>
void direct_rows(const DirectRows& rows, int first_row, const DirectKeys& keys) {
  direct_scores<kType, R>(rows, first_row, keys);
  float correction[R];
  for (int r = 0; r < R; ++r) {
    correction[r] = direct_weights(rows, first_row + r, rows.scores + r * kDirectKeys, keys.count);
  }
  const int whole = rows.value_dim / 16;
  int v = 0;
  for (; v + 4 <= whole; v += 4) {
    direct_values<kType, R, 4>(rows, first_row, keys, correction, v, first_row == 0 && v == 0);
  }
  for (; v + 2 <= whole; v += 2) {
    direct_values<kType, R, 2>(rows, first_row, keys, correction, v, first_row == 0 && v == 0);
  }
  for (; 16 * v < rows.value_dim; ++v) {
    direct_values<kType, R, 1>(rows, first_row, keys, correction, v, first_row == 0 && v == 0);
  }
}

template <KvDtype kType>
void step_direct_of(const DirectRows& rows, const DirectKeys& keys) {
  for (int row = 0; row < rows.rows; row += kDirectRows) {
    switch (rows.rows - row) {
      case 1:
        direct_rows<kType, 1>(rows, row, keys);
        break;
      case 2:
        direct_rows<kType, 2>(rows, row, keys);
        break;
      case 3:
        direct_rows<kType, 3>(rows, row, keys);
        break;
      default:
        direct_rows<kType, 4>(rows, row, keys);
        break;
    }
  }
}

}  // namespace sedpa::cpu::SEDPA_ISA
