// What training adds: gradients of the operations on rows, and the loops of windowed attention with
// its gradient.
#include "sedpa/backend/cpu/kernels_table.h"
#include "sedpa/backend/cpu/simd.h"

namespace sedpa::cpu::SEDPA_ISA {
namespace {

/// body(at, count) for each 16 of `size` numbers; count < 16 for the last ones.
template <class Body>
SEDPA_INLINE void for_vectors(std::int64_t size, Body body) {
  std::int64_t i = 0;
  for (; i + 16 <= size; i += 16) body(i, std::int64_t{16});
  if (i < size) body(i, size - i);
}

SEDPA_INLINE F32x16 load_some(const float* from, std::int64_t count) {
  return count == 16 ? load(from) : load_partial(from, count);
}
SEDPA_INLINE void store_some(float* to, F32x16 x, std::int64_t count) {
  if (count == 16) {
    store(to, x);
  } else {
    store_partial(to, x, count);
  }
}

void rms_norm_backward(const float* x, const float* weight, std::int64_t size, float eps,
                       const float* d_out, const float* residual, float* d_x) {
  F32x16 squares = zero();
  F32x16 products = zero();
  for_vectors(
      size, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
        const F32x16 numbers = load_some(x + i, count);
        const F32x16 scaled = load_some(d_out + i, count) * load_some(weight + i, count);
        squares = fma(numbers, numbers, squares);
        products = fma(numbers, scaled, products);
      });
  const auto width = static_cast<float>(size);
  const float inverse = 1.0f / __builtin_sqrtf(reduce_sum(squares) / width + eps);
  const F32x16 along = broadcast(inverse * inverse * (reduce_sum(products) / width));
  for_vectors(
      size, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
        const F32x16 scaled = load_some(d_out + i, count) * load_some(weight + i, count);
        F32x16 result = broadcast(inverse) * fnma(load_some(x + i, count), along, scaled);
        if (residual != nullptr) result = result + load_some(residual + i, count);
        store_some(d_x + i, result, count);
      });
}

void swiglu_backward(const float* gate_up, std::int64_t width, const float* d_out,
                     float* d_gate_up) {
  const F32x16 one = broadcast(1.0f);
  for_vectors(
      width, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
        const F32x16 gate = load_some(gate_up + i, count);
        const F32x16 up = load_some(gate_up + width + i, count);
        const F32x16 d = load_some(d_out + i, count);
        const F32x16 sigmoid = one / (one + exp(zero() - gate));
        const F32x16 slope = sigmoid * fma(gate, one - sigmoid, one);
        store_some(d_gate_up + i, d * up * slope, count);
        store_some(d_gate_up + width + i, d * gate * sigmoid, count);
      });
}

void store_row_bf16(const float* x, std::int64_t size, std::byte* out) {
  for_vectors(size, [&](std::int64_t i, std::int64_t count) {
    store_bf16_partial(out + 2 * i, load_some(x + i, count), count);
  });
}

template <bool kBf16>
SEDPA_INLINE F32x16 load_stored(const std::byte* from, std::int64_t i, std::int64_t count) {
  if constexpr (kBf16) {
    return count == 16 ? load_bf16(from + 2 * i) : load_bf16_partial(from + 2 * i, count);
  } else {
    return count == 16 ? load(from + 4 * i) : load_partial(from + 4 * i, count);
  }
}

template <bool kBf16>
void mix_stored(float gate, const std::byte* full, const float* windowed, std::int64_t size,
                float* out) {
  for_vectors(
      size, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
        const F32x16 wide = load_stored<kBf16>(full, i, count) * broadcast(gate);
        store_some(out + i, fma(load_some(windowed + i, count), broadcast(1.0f - gate), wide),
                   count);
      });
}

void mix(float gate, const std::byte* full, bool bf16, const float* windowed, std::int64_t size,
         float* out) {
  (bf16 ? mix_stored<true> : mix_stored<false>)(gate, full, windowed, size, out);
}

template <bool kBf16>
float mix_stored_backward(float gate, const std::byte* full, const float* windowed,
                          const float* d_out, std::int64_t size, float* d_windowed) {
  F32x16 sum = zero();
  for_vectors(
      size, [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
        const F32x16 d = load_some(d_out + i, count);
        sum = fma(d, load_stored<kBf16>(full, i, count) - load_some(windowed + i, count), sum);
        store_some(d_windowed + i, d * broadcast(1.0f - gate), count);
      });
  return reduce_sum(sum);
}

float mix_backward(float gate, const std::byte* full, bool bf16, const float* windowed,
                   const float* d_out, std::int64_t size, float* d_windowed) {
  return (bf16 ? mix_stored_backward<true> : mix_stored_backward<false>)(gate, full, windowed,
                                                                         d_out, size, d_windowed);
}

// --- Windowed attention -------------------------------------------------------------------------

// Rows of c, and vectors across, that stay in registers.
#if SEDPA_ISA_LEVEL == 2
inline constexpr int kRowsAtOnce = 6;
inline constexpr int kVectorsAtOnce = 4;
#elif SEDPA_ISA_LEVEL == 1
inline constexpr int kRowsAtOnce = 4;
inline constexpr int kVectorsAtOnce = 1;
#else
inline constexpr int kRowsAtOnce = 2;
inline constexpr int kVectorsAtOnce = 1;
#endif

/// Rows [m, m + M) and columns [n, n + 16 V) of c; of one vector only the first `count`.
template <int M, int V>
SEDPA_INLINE void small_block(const SmallProduct& job, std::int64_t m, std::int64_t n,
                              std::int64_t count) {
  F32x16 acc[M][V];
  SEDPA_UNROLL for (int i = 0; i < M; ++i) {
    SEDPA_UNROLL for (int v = 0; v < V; ++v) acc[i][v] = zero();
  }
  const float* a = job.a + m * job.a_row;
  const float* b = job.b + n;
  for (std::int64_t k = 0; k < job.depth; ++k, a += job.a_step, b += job.b_row) {
    F32x16 across[V];
    SEDPA_UNROLL for (int v = 0; v < V; ++v) {
      across[v] = V > 1 ? load(b + 16 * v) : load_some(b, count);
    }
    SEDPA_UNROLL for (int i = 0; i < M; ++i) {
      const F32x16 one = broadcast(a[i * job.a_row]);
      SEDPA_UNROLL for (int v = 0; v < V; ++v) acc[i][v] = fma(one, across[v], acc[i][v]);
    }
  }
  SEDPA_UNROLL for (int i = 0; i < M; ++i) {
    SEDPA_UNROLL for (int v = 0; v < V; ++v) {
      float* c = job.c + (m + i) * job.c_row + n + 16 * v;
      const std::int64_t width = V > 1 ? 16 : count;
      const F32x16 sum = job.add ? acc[i][v] + load_some(c, width) : acc[i][v];
      store_some(c, sum, width);
    }
  }
}

template <int V>
void small_columns(const SmallProduct& job, std::int64_t n, std::int64_t count) {
  std::int64_t m = 0;
  for (; m + kRowsAtOnce <= job.rows; m += kRowsAtOnce) {
    small_block<kRowsAtOnce, V>(job, m, n, count);
  }
  for (; m < job.rows; ++m) small_block<1, V>(job, m, n, count);
}

void small_product(const SmallProduct& job) {
  std::int64_t n = 0;
  for (; n + 16 * kVectorsAtOnce <= job.cols; n += 16 * kVectorsAtOnce) {
    small_columns<kVectorsAtOnce>(job, n, 16);
  }
  for (; n < job.cols; n += 16) small_columns<1>(job, n, job.cols - n < 16 ? job.cols - n : 16);
}

void softmax_step(const ScoreTile& tile, float* max, float* sum, float* correction) {
  for (std::int64_t r = 0; r < tile.rows; r += 16) {
    float* scores = tile.scores + r;
    const F32x16 before = load(max + r);
    F32x16 highest = before;
    for (std::int64_t key = 0; key < tile.keys; ++key) {
      highest = sedpa::cpu::SEDPA_ISA::max(highest, load(scores + key * tile.rows));
    }
    F32x16 total = zero();
    for (std::int64_t key = 0; key < tile.keys; ++key) {
      const F32x16 weight = exp(load(scores + key * tile.rows) - highest);
      total = total + weight;
      store(scores + key * tile.rows, weight);
    }
    const F32x16 shrink = exp(before - highest);
    store(max + r, highest);
    store(correction + r, shrink);
    store(sum + r, fma(load(sum + r), shrink, total));
  }
}

void softmax_backward(const ScoreTile& tile, float* d_weights, const float* lse, const float* delta,
                      float scale) {
  for (std::int64_t key = 0; key < tile.keys; ++key) {
    for (std::int64_t r = 0; r < tile.rows; r += 16) {
      const std::int64_t at = key * tile.rows + r;
      const F32x16 weight = exp(load(tile.scores + at) - load(lse + r));
      store(tile.scores + at, weight);
      store(d_weights + at, weight * (load(d_weights + at) - load(delta + r)) * broadcast(scale));
    }
  }
}

}  // namespace

void fill_training(Kernels& table) {
  table.rms_norm_backward = rms_norm_backward;
  table.swiglu_backward = swiglu_backward;
  table.store_bf16 = store_row_bf16;
  table.mix = mix;
  table.mix_backward = mix_backward;
  table.small_product = small_product;
  table.softmax_step = softmax_step;
  table.softmax_backward = softmax_backward;
}

}  // namespace sedpa::cpu::SEDPA_ISA
