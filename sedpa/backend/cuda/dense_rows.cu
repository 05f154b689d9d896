#include "sedpa/backend/cuda/dense_rows.h"

#include "sedpa/backend/cuda/launch.h"

namespace sedpa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 32;
constexpr int kTileRows = 8;  // of threads

/// A block a row, as are the others unless they say otherwise.
__global__ void __launch_bounds__(kThreads) widen_kernel(Rows from, DenseView to) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t i = threadIdx.x; i < to.cols; i += kThreads) {
    to.data[row * to.stride + i] = from.data[row * from.stride + i];
  }
}

__global__ void __launch_bounds__(kThreads) narrow_kernel(DenseView from, Rows to) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t i = threadIdx.x; i < to.cols; i += kThreads) {
    to.data[row * to.stride + i] = __double2float_rn(from.data[row * from.stride + i]);
  }
}

__global__ void __launch_bounds__(kThreads) finite_kernel(DenseView m, int* found) {
  const std::int64_t row = blockIdx.x;
  bool bad = false;
  for (std::int64_t i = threadIdx.x; i < m.cols; i += kThreads) {
    bad = bad || !isfinite(m.data[row * m.stride + i]);
  }
  if (bad) *found = 1;  // who writes it, all write the same
}

/// A block a square of kTile x kTile numbers, read and written by rows.
__global__ void __launch_bounds__(kTile* kTileRows) turn_kernel(DenseView from, DenseView to) {
  __shared__ double tile[kTile][kTile + 1];
  const std::int64_t top = static_cast<std::int64_t>(blockIdx.y) * kTile;
  const std::int64_t left = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const int x = static_cast<int>(threadIdx.x);
  for (int y = static_cast<int>(threadIdx.y); y < kTile; y += kTileRows) {
    if (top + y < from.rows && left + x < from.cols) {
      tile[y][x] = from.data[(top + y) * from.stride + left + x];
    }
  }
  __syncthreads();
  for (int y = static_cast<int>(threadIdx.y); y < kTile; y += kTileRows) {
    if (top + x < from.rows && left + y < from.cols) {
      to.data[(left + y) * to.stride + from.rows - 1 - (top + x)] = tile[x][y];
    }
  }
}

LaunchShape by_rows(std::int64_t rows, cudaStream_t stream) {
  return {.grid = dim3(static_cast<unsigned>(rows)), .block = dim3(kThreads), .stream = stream};
}

}  // namespace

void widen(Rows from, DenseView to, cudaStream_t stream) {
  if (to.rows > 0) launch(by_rows(to.rows, stream), widen_kernel, from, to);
}

void narrow(DenseView from, Rows to, cudaStream_t stream) {
  if (to.rows > 0) launch(by_rows(to.rows, stream), narrow_kernel, from, to);
}

void turn_backwards(DenseView from, DenseView to, cudaStream_t stream) {
  if (from.rows == 0) return;
  const auto tiles = static_cast<unsigned>((from.rows + kTile - 1) / kTile);
  launch({.grid = dim3(tiles, tiles), .block = dim3(kTile, kTileRows), .stream = stream},
         turn_kernel, from, to);
}

void find_not_finite(DenseView m, int* found, cudaStream_t stream) {
  if (m.rows > 0) launch(by_rows(m.rows, stream), finite_kernel, m, found);
}

}  // namespace sedpa::cuda
