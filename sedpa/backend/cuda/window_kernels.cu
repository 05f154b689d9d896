// Blocks of 256 threads, 16 x 16. A block owns a tile of vectors (rows of queries, or keys), and
// others (keys, or rows) pass by tile by tile, all in shared memory. Thread (y, x) has the scores
// of vectors y + 16 i of its own with vectors x + 16 j of the others, so that a row of scores
// belongs to half a warp; of what is gathered it has vectors y + 16 i, numbers 4 x + 64 m ..
//
// The gradient goes over the scores twice, once from the rows' side, once from the keys': no two
// blocks add to the same number.
#include "sedpa/backend/cuda/launch.h"
#include "sedpa/backend/cuda/window_kernels.h"

namespace sedpa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSide = 16;
constexpr float kLowest = -1e30f;  // below every score

/// Of a kernel: heads of up to kDim numbers (padded with zeros), 16 kI vectors of its own, 16 kJ
/// others.
template <int kHeadDim, int kOwnRows, int kOtherRows>
struct Tiles {
  static constexpr int kDim = kHeadDim;
  static constexpr int kI = kOwnRows;
  static constexpr int kJ = kOtherRows;
  static constexpr int kM = kDim / 64;
  static constexpr int kOwn = kSide * kI;
  static constexpr int kOthers = kSide * kJ;
  // Four numbers more: eight vectors then lie in all 32 banks.
  static constexpr int kPitch = kDim + 4;
  static constexpr int kWeightPitch = kOthers + 4;
  static constexpr int kOwnNumbers = kOwn * kPitch;
  static constexpr int kOtherNumbers = kOthers * kPitch;
  static constexpr int kWeightNumbers = kOwn * kWeightPitch;
  /// Two tiles of its own, two of others, and weights.
  static constexpr int kSharedBytes = 4 * (2 * kOwnNumbers + 2 * kOtherNumbers + kWeightNumbers);
};

__device__ inline int thread_y() { return static_cast<int>(threadIdx.x) / kSide; }
__device__ inline int thread_x() { return static_cast<int>(threadIdx.x) % kSide; }

/// Vectors [first, first + count) of a head, which begins at column `begin`, to shared memory;
/// zeros beyond. By the whole block.
template <class T, int kRows>
__device__ inline void load_vectors(const WindowParams& p, const Rows& from, std::int64_t begin,
                                    int first, int count, float* to) {
  constexpr int kPieces = T::kDim / 4;  // of a vector
  static_assert(kRows * kPieces % kThreads == 0);
#pragma unroll
  for (int i = 0; i < kRows * kPieces / kThreads; ++i) {
    const int piece = static_cast<int>(threadIdx.x) + i * kThreads;
    const int row = piece / kPieces;
    const int col = piece % kPieces * 4;
    float4 v = make_float4(0, 0, 0, 0);
    if (row < count && col < p.dim) {
      const float* at = from.data + (first + row) * from.stride + begin + col;
      if (p.aligned) {
        v = *reinterpret_cast<const float4*>(at);
      } else {
        v.x = at[0];
        if (col + 1 < p.dim) v.y = at[1];
        if (col + 2 < p.dim) v.z = at[2];
        if (col + 3 < p.dim) v.w = at[3];
      }
    }
    *reinterpret_cast<float4*>(to + row * T::kPitch + col) = v;
  }
}

/// The vector's numbers that this thread has gathered, times `factor`, to `to` [dim].
template <class T>
__device__ inline void store_vector(const WindowParams& p, const float4 (&sums)[T::kM],
                                    float factor, float* to) {
#pragma unroll
  for (int m = 0; m < T::kM; ++m) {
    const int col = 4 * thread_x() + 64 * m;
    const float v[4] = {sums[m].x, sums[m].y, sums[m].z, sums[m].w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (col + k < p.dim) to[col + k] = factor * v[k];
    }
  }
}

/// dots[i][j] = own vector y + 16 i . other vector x + 16 j.
template <class T>
__device__ inline void dot_vectors(const float* own, const float* others,
                                   float (&dots)[T::kI][T::kJ]) {
  own += thread_y() * T::kPitch;
  others += thread_x() * T::kPitch;
#pragma unroll
  for (int i = 0; i < T::kI; ++i) {
#pragma unroll
    for (int j = 0; j < T::kJ; ++j) dots[i][j] = 0;
  }
#pragma unroll 4
  for (int d = 0; d < T::kDim; d += 4) {
    float4 a[T::kI];
    float4 b[T::kJ];
#pragma unroll
    for (int i = 0; i < T::kI; ++i) {
      a[i] = *reinterpret_cast<const float4*>(own + kSide * i * T::kPitch + d);
    }
#pragma unroll
    for (int j = 0; j < T::kJ; ++j) {
      b[j] = *reinterpret_cast<const float4*>(others + kSide * j * T::kPitch + d);
    }
#pragma unroll
    for (int i = 0; i < T::kI; ++i) {
#pragma unroll
      for (int j = 0; j < T::kJ; ++j) {
        float& dot = dots[i][j];
        dot = fmaf(a[i].x, b[j].x, dot);
        dot = fmaf(a[i].y, b[j].y, dot);
        dot = fmaf(a[i].z, b[j].z, dot);
        dot = fmaf(a[i].w, b[j].w, dot);
      }
    }
  }
}

__device__ inline void add_scaled(float factor, float4 x, float4& sum) {
  sum.x = fmaf(factor, x.x, sum.x);
  sum.y = fmaf(factor, x.y, sum.y);
  sum.z = fmaf(factor, x.z, sum.z);
  sum.w = fmaf(factor, x.w, sum.w);
}

/// sums[i] += sum over others k of weights[y + 16 i][k] * vector k.
template <class T>
__device__ inline void gather_vectors(const float* weights, const float* others,
                                      float4 (&sums)[T::kI][T::kM]) {
  weights += thread_y() * T::kWeightPitch;
  others += 4 * thread_x();
#pragma unroll 2
  for (int k = 0; k < T::kOthers; k += 4) {
    float4 w[T::kI];
#pragma unroll
    for (int i = 0; i < T::kI; ++i) {
      w[i] = *reinterpret_cast<const float4*>(weights + kSide * i * T::kWeightPitch + k);
    }
#pragma unroll
    for (int m = 0; m < T::kM; ++m) {
      float4 b[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        b[e] = *reinterpret_cast<const float4*>(others + (k + e) * T::kPitch + 64 * m);
      }
#pragma unroll
      for (int i = 0; i < T::kI; ++i) {
        add_scaled(w[i].x, b[0], sums[i][m]);
        add_scaled(w[i].y, b[1], sums[i][m]);
        add_scaled(w[i].z, b[2], sums[i][m]);
        add_scaled(w[i].w, b[3], sums[i][m]);
      }
    }
  }
}

/// Weights of this thread's scores to shared memory, for its half warp.
template <class T>
__device__ inline void share_weights(const float (&from)[T::kI][T::kJ], float* weights) {
  __syncwarp();  // all have read what was there
#pragma unroll
  for (int i = 0; i < T::kI; ++i) {
#pragma unroll
    for (int j = 0; j < T::kJ; ++j) {
      weights[(thread_y() + kSide * i) * T::kWeightPitch + thread_x() + kSide * j] = from[i][j];
    }
  }
  __syncwarp();
}

template <class T>
__device__ inline void clear_sums(float4 (&sums)[T::kI][T::kM]) {
#pragma unroll
  for (int i = 0; i < T::kI; ++i) {
#pragma unroll
    for (int m = 0; m < T::kM; ++m) sums[i][m] = make_float4(0, 0, 0, 0);
  }
}

// Of the 16 threads that share a row of scores.
__device__ inline float row_max(float x) {
#pragma unroll
  for (int offset = kSide / 2; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, offset));
  }
  return x;
}
__device__ inline float row_sum(float x) {
#pragma unroll
  for (int offset = kSide / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

/// Rows own, keys pass by. Grid (tiles of rows, query heads).
template <class T>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(WindowParams p) {
  extern __shared__ float4 shared[];
  float* const queries = reinterpret_cast<float*>(shared);
  float* const keys = queries + T::kOwnNumbers;
  float* const values = keys + T::kOtherNumbers;
  float* const weights = values + T::kOtherNumbers;
  const int first = static_cast<int>(blockIdx.x) * T::kOwn;
  const int count = min(T::kOwn, p.mask.rows - first);
  const int head = static_cast<int>(blockIdx.y);
  const int kv_head = head / (p.query_heads / p.kv_heads);
  load_vectors<T, T::kOwn>(p, p.qkv, static_cast<std::int64_t>(head) * p.dim, first, count,
                           queries);

  float highest[T::kI];
  float total[T::kI];
  float4 sums[T::kI][T::kM];
  clear_sums<T>(sums);
#pragma unroll
  for (int i = 0; i < T::kI; ++i) {
    highest[i] = kLowest;
    total[i] = 0;
  }
  const SeenKeys seen(p.mask, first, first + count - 1);
  int tile = 0;
  for (int key = seen.after(0); key < seen.end; key = seen.after(key + tile)) {
    tile = seen.tile(key, T::kOthers);
    __syncthreads();  // the tile before has been used
    load_vectors<T, T::kOthers>(p, p.qkv, p.key_begin + kv_head * p.dim, key, tile, keys);
    load_vectors<T, T::kOthers>(p, p.qkv, p.value_begin + kv_head * p.dim, key, tile, values);
    __syncthreads();
    float scores[T::kI][T::kJ];
    dot_vectors<T>(queries, keys, scores);
#pragma unroll
    for (int i = 0; i < T::kI; ++i) {
      const int row = first + thread_y() + kSide * i;
      bool sees[T::kJ];
      float most = highest[i];
#pragma unroll
      for (int j = 0; j < T::kJ; ++j) {
        const int at = thread_x() + kSide * j;
        sees[j] = at < tile && p.mask.sees(row, key + at);
        scores[i][j] *= p.scale;
        if (sees[j]) most = fmaxf(most, scores[i][j]);
      }
      most = row_max(most);
      float part = 0;
#pragma unroll
      for (int j = 0; j < T::kJ; ++j) {
        scores[i][j] = sees[j] ? expf(scores[i][j] - most) : 0.0f;
        part += scores[i][j];
      }
      const float shrink = expf(highest[i] - most);
      total[i] = fmaf(total[i], shrink, row_sum(part));
      highest[i] = most;
#pragma unroll
      for (int m = 0; m < T::kM; ++m) {
        sums[i][m].x *= shrink;
        sums[i][m].y *= shrink;
        sums[i][m].z *= shrink;
        sums[i][m].w *= shrink;
      }
    }
    share_weights<T>(scores, weights);
    gather_vectors<T>(weights, values, sums);
  }
#pragma unroll
  for (int i = 0; i < T::kI; ++i) {
    const int at = thread_y() + kSide * i;
    if (at >= count) continue;
    store_vector<T>(p, sums[i], 1.0f / total[i],
                    p.out.data + (first + at) * p.out.stride + head * p.dim);
    if (thread_x() == 0) {
      p.lse.data[(first + at) * p.lse.stride + head] = highest[i] + logf(total[i]);
    }
  }
}

__device__ inline std::int64_t delta_at(const WindowParams& p, int row, int head) {
  return static_cast<std::int64_t>(row) * p.query_heads + head;
}

/// Numbers of a run's share of the sinks' gradients.
__host__ __device__ inline std::int64_t sink_numbers(const WindowParams& p,
                                                     const KeyPieces& pieces) {
  return std::int64_t{2} * p.kv_heads * pieces.sinks * p.dim;
}

/// delta = d_out . out of each row and head, a warp each.
__global__ void __launch_bounds__(kThreads) delta_kernel(WindowParams p) {
  const std::int64_t vector =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (vector >= static_cast<std::int64_t>(p.mask.rows) * p.query_heads) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t row = vector / p.query_heads;
  const std::int64_t begin = vector % p.query_heads * p.dim;
  const float* out = p.out.data + row * p.out.stride + begin;
  const float* d_out = p.d_out.data + row * p.d_out.stride + begin;
  float sum = 0;
  for (int d = lane; d < p.dim; d += 32) sum = fmaf(out[d], d_out[d], sum);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (lane == 0) p.delta[vector] = sum;
}

/// d_queries. Rows own, keys pass by. Grid (tiles of rows, query heads).
template <class T>
__global__ void __launch_bounds__(kThreads, 2) queries_kernel(WindowParams p) {
  extern __shared__ float4 shared[];
  float* const queries = reinterpret_cast<float*>(shared);
  float* const d_out = queries + T::kOwnNumbers;
  float* const keys = d_out + T::kOwnNumbers;
  float* const values = keys + T::kOtherNumbers;
  float* const weights = values + T::kOtherNumbers;
  const int first = static_cast<int>(blockIdx.x) * T::kOwn;
  const int count = min(T::kOwn, p.mask.rows - first);
  const int head = static_cast<int>(blockIdx.y);
  const int kv_head = head / (p.query_heads / p.kv_heads);
  const std::int64_t begin = static_cast<std::int64_t>(head) * p.dim;
  load_vectors<T, T::kOwn>(p, p.qkv, begin, first, count, queries);
  load_vectors<T, T::kOwn>(p, p.d_out, begin, first, count, d_out);

  float lse[T::kI];
  float delta[T::kI];
  float4 sums[T::kI][T::kM];
  clear_sums<T>(sums);
#pragma unroll
  for (int i = 0; i < T::kI; ++i) {
    const int at = thread_y() + kSide * i;
    lse[i] = at < count ? p.lse.data[(first + at) * p.lse.stride + head] : 0.0f;
    delta[i] = at < count ? p.delta[delta_at(p, first + at, head)] : 0.0f;
  }
  const SeenKeys seen(p.mask, first, first + count - 1);
  int tile = 0;
  for (int key = seen.after(0); key < seen.end; key = seen.after(key + tile)) {
    tile = seen.tile(key, T::kOthers);
    __syncthreads();
    load_vectors<T, T::kOthers>(p, p.qkv, p.key_begin + kv_head * p.dim, key, tile, keys);
    load_vectors<T, T::kOthers>(p, p.qkv, p.value_begin + kv_head * p.dim, key, tile, values);
    __syncthreads();
    float scores[T::kI][T::kJ];
    float d_weights[T::kI][T::kJ];
    dot_vectors<T>(queries, keys, scores);
    dot_vectors<T>(d_out, values, d_weights);
#pragma unroll
    for (int i = 0; i < T::kI; ++i) {
      const int at = thread_y() + kSide * i;
#pragma unroll
      for (int j = 0; j < T::kJ; ++j) {
        const int other = thread_x() + kSide * j;
        const bool sees = at < count && other < tile && p.mask.sees(first + at, key + other);
        const float weight = sees ? expf(fmaf(scores[i][j], p.scale, -lse[i])) : 0.0f;
        d_weights[i][j] = weight * (d_weights[i][j] - delta[i]) * p.scale;
      }
    }
    share_weights<T>(d_weights, weights);
    gather_vectors<T>(weights, keys, sums);
  }
#pragma unroll
  for (int i = 0; i < T::kI; ++i) {
    const int at = thread_y() + kSide * i;
    if (at >= count) continue;
    store_vector<T>(p, sums[i], 1.0f, p.d_qkv.data + (first + at) * p.d_qkv.stride + begin);
  }
}

/// d_keys and d_values. Keys own, the rows of their query heads pass by. Grid: a block for each
/// piece and KV head, KV heads fastest.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) keys_kernel(WindowParams p, KeyPieces pieces) {
  extern __shared__ float4 shared[];
  float* const keys = reinterpret_cast<float*>(shared);
  float* const values = keys + T::kOwnNumbers;
  float* const queries = values + T::kOwnNumbers;
  float* const d_out = queries + T::kOtherNumbers;
  float* const weights = d_out + T::kOtherNumbers;
  const int kv_head = static_cast<int>(blockIdx.x) % p.kv_heads;
  const KeyPiece piece = pieces.piece(static_cast<int>(blockIdx.x) / p.kv_heads);
  const std::int64_t key_begin = p.key_begin + kv_head * p.dim;
  const std::int64_t value_begin = p.value_begin + kv_head * p.dim;
  load_vectors<T, T::kOwn>(p, p.qkv, key_begin, piece.key, piece.keys, keys);
  load_vectors<T, T::kOwn>(p, p.qkv, value_begin, piece.key, piece.keys, values);

  float4 key_sums[T::kI][T::kM];
  float4 value_sums[T::kI][T::kM];
  clear_sums<T>(key_sums);
  clear_sums<T>(value_sums);
  const int group = p.query_heads / p.kv_heads;
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const std::int64_t begin = static_cast<std::int64_t>(head) * p.dim;
    for (int row = piece.first_row; row < piece.end_row; row += T::kOthers) {
      const int tile = min(T::kOthers, piece.end_row - row);
      __syncthreads();
      load_vectors<T, T::kOthers>(p, p.qkv, begin, row, tile, queries);
      load_vectors<T, T::kOthers>(p, p.d_out, begin, row, tile, d_out);
      __syncthreads();
      float scores[T::kI][T::kJ];
      float d_weights[T::kI][T::kJ];
      dot_vectors<T>(keys, queries, scores);
      dot_vectors<T>(values, d_out, d_weights);
#pragma unroll
      for (int j = 0; j < T::kJ; ++j) {
        const int other = thread_x() + kSide * j;
        const int at_row = row + other;
        const float lse = other < tile ? p.lse.data[at_row * p.lse.stride + head] : 0.0f;
        const float delta = other < tile ? p.delta[delta_at(p, at_row, head)] : 0.0f;
#pragma unroll
        for (int i = 0; i < T::kI; ++i) {
          const int at = thread_y() + kSide * i;
          const bool sees = at < piece.keys && other < tile && p.mask.sees(at_row, piece.key + at);
          const float weight = sees ? expf(fmaf(scores[i][j], p.scale, -lse)) : 0.0f;
          scores[i][j] = weight;
          d_weights[i][j] = weight * (d_weights[i][j] - delta) * p.scale;
        }
      }
      share_weights<T>(scores, weights);
      gather_vectors<T>(weights, d_out, value_sums);
      share_weights<T>(d_weights, weights);
      gather_vectors<T>(weights, queries, key_sums);
    }
  }
#pragma unroll
  for (int i = 0; i < T::kI; ++i) {
    const int at = thread_y() + kSide * i;
    if (at >= piece.keys) continue;
    const std::int64_t key = piece.key + at;
    if (piece.run < 0) {
      float* const row = p.d_qkv.data + key * p.d_qkv.stride;
      store_vector<T>(p, key_sums[i], 1.0f, row + key_begin);
      store_vector<T>(p, value_sums[i], 1.0f, row + value_begin);
    } else {
      const std::int64_t heads = p.kv_heads;
      float* const part =
          p.sink_parts + ((piece.run * heads + kv_head) * pieces.sinks + key) * 2 * p.dim;
      store_vector<T>(p, key_sums[i], 1.0f, part);
      store_vector<T>(p, value_sums[i], 1.0f, part + p.dim);
    }
  }
}

/// The sinks' gradients: the sums of their parts, a thread a number.
__global__ void __launch_bounds__(kThreads) sinks_kernel(WindowParams p, KeyPieces pieces) {
  const std::int64_t numbers = sink_numbers(p, pieces);
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= numbers) return;
  float sum = 0;
  for (std::int64_t run = 0; run < pieces.runs; ++run) sum += p.sink_parts[run * numbers + at];
  const std::int64_t vector = at / p.dim;  // [kv_heads][sinks][2]
  const std::int64_t key = vector / 2 % pieces.sinks;
  const std::int64_t kv_head = vector / 2 / pieces.sinks;
  const std::int64_t begin = vector % 2 == 0 ? p.key_begin : p.value_begin;
  p.d_qkv.data[key * p.d_qkv.stride + begin + kv_head * p.dim + at % p.dim] = sum;
}

/// Calls fn with the tiles for heads of `dim` numbers.
template <class Function>
void with_tiles(int dim, Function&& fn) {
  if (dim <= 64) return fn(Tiles<64, 4, 4>());
  if (dim <= 128) return fn(Tiles<128, 2, 2>());
  fn(Tiles<256, 1, 1>());
}

unsigned blocks_of(std::int64_t count, std::int64_t size) {
  return static_cast<unsigned>(ceil_div(count, size));
}

}  // namespace

void prepare_window(int dim) {
  with_tiles(dim, [](auto tiles) {
    using T = decltype(tiles);
    const auto allow = [](auto kernel) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 T::kSharedBytes));
    };
    allow(forward_kernel<T>);
    allow(queries_kernel<T>);
    allow(keys_kernel<T>);
  });
}

void window_forward(const WindowParams& p, cudaStream_t stream) {
  with_tiles(p.dim, [&](auto tiles) {
    using T = decltype(tiles);
    launch({.grid = dim3(blocks_of(p.mask.rows, T::kOwn), static_cast<unsigned>(p.query_heads)),
            .block = dim3(kThreads),
            .shared_bytes = T::kSharedBytes,
            .stream = stream},
           forward_kernel<T>, p);
  });
}

void window_backward(const WindowParams& p, cudaStream_t stream) {
  const LaunchShape shape{.grid = {}, .block = dim3(kThreads), .stream = stream};
  const auto launch_threads = [&](std::int64_t threads, auto kernel, const auto&... arguments) {
    LaunchShape flat = shape;
    flat.grid = dim3(blocks_of(threads, kThreads));
    launch(flat, kernel, arguments...);
  };
  launch_threads(std::int64_t{32} * p.mask.rows * p.query_heads, delta_kernel, p);
  with_tiles(p.dim, [&](auto tiles) {
    using T = decltype(tiles);
    LaunchShape tiled = shape;
    tiled.shared_bytes = T::kSharedBytes;
    tiled.grid = dim3(blocks_of(p.mask.rows, T::kOwn), static_cast<unsigned>(p.query_heads));
    launch(tiled, queries_kernel<T>, p);
    const KeyPieces pieces(p.mask, T::kOwn);
    tiled.grid = dim3(static_cast<unsigned>(pieces.count * p.kv_heads));
    launch(tiled, keys_kernel<T>, p, pieces);
    if (pieces.sinks > 0) {
      launch_threads(sink_numbers(p, pieces), sinks_kernel, p, pieces);
    }
  });
}

}  // namespace sedpa::cuda
