#include <algorithm>
#include <span>
#include <thread>
#include <vector>

#include "sedpa/backend/cuda/linear.h"
#include "sedpa/backend/cuda/weight_format.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

/// Bytes of rows that are read, repacked and copied at once; at least one row.
constexpr std::int64_t kSlabBytes = std::int64_t{8} << 20;
/// Repacking is bytewise work that several threads share; each gets no less than this.
constexpr std::int64_t kThreadBytes = std::int64_t{1} << 18;
constexpr std::int64_t kMostThreads = 8;

/// An event of the stream, waited for on the host.
class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream)); }
  void wait() { check(cudaEventSynchronize(event_)); }

 private:
  cudaEvent_t event_ = nullptr;
};

void repack_in_parallel(Dtype dtype, const std::byte* rows, std::int64_t count, std::int64_t cols,
                        std::byte* out) {
  const std::int64_t from_bytes = row_bytes(dtype, cols);
  const std::int64_t to_bytes = row_layout(dtype, cols).bytes;
  const auto cores = static_cast<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  const std::int64_t threads = std::clamp<std::int64_t>(
      std::min(count, count * from_bytes / kThreadBytes), 1, std::min(cores, kMostThreads));
  const auto part = [&](std::int64_t i) {
    const std::int64_t begin = count * i / threads;
    const std::int64_t end = count * (i + 1) / threads;
    repack_rows(dtype, rows + begin * from_bytes, end - begin, cols, out + begin * to_bytes);
  };
  std::vector<std::jthread> others;
  for (std::int64_t i = 1; i < threads; ++i) others.emplace_back(part, i);
  part(0);
}

/// Two buffers that the device copies from in turn, while the host fills the other.
class Upload {
 public:
  Upload(std::int64_t bytes, cudaStream_t stream) : stream_(stream) {
    for (Half& half : halves_) half.memory = PinnedMemory(static_cast<std::size_t>(bytes));
  }
  // The device may still read the buffers when reading the source has thrown.
  ~Upload() { cudaStreamSynchronize(stream_); }
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  /// A buffer that the device has done with.
  std::byte* next() {
    current_ = 1 - current_;
    Half& half = halves_[current_];
    if (half.busy) half.copied.wait();
    half.busy = false;
    return half.memory.data();
  }
  /// Copies what next() gave.
  void copy(std::byte* to, std::int64_t bytes) {
    Half& half = halves_[current_];
    check(cudaMemcpyAsync(to, half.memory.data(), static_cast<std::size_t>(bytes),
                          cudaMemcpyHostToDevice, stream_));
    half.copied.record(stream_);
    half.busy = true;
  }

 private:
  struct Half {
    PinnedMemory memory;
    Event copied;
    bool busy = false;
  };
  cudaStream_t stream_;
  Half halves_[2];
  int current_ = 0;
};

void upload_source(const MatrixSource& source, Upload& upload, std::vector<std::byte>& staging,
                   std::byte* data) {
  const std::int64_t from_bytes = row_bytes(source.dtype, source.cols);
  const std::int64_t to_bytes = row_layout(source.dtype, source.cols).bytes;
  const std::int64_t slab_rows = std::max<std::int64_t>(1, kSlabBytes / to_bytes);
  const bool as_is = stored_as_is(source.dtype, source.cols);
  for (std::int64_t row = 0; row < source.rows; row += slab_rows) {
    const std::int64_t count = std::min(slab_rows, source.rows - row);
    std::byte* buffer = upload.next();
    if (as_is) {
      source.read(row, count, buffer);
    } else {
      staging.resize(std::max(staging.size(), static_cast<std::size_t>(count * from_bytes)));
      source.read(row, count, staging.data());
      repack_in_parallel(source.dtype, staging.data(), count, source.cols, buffer);
    }
    upload.copy(data + row * to_bytes, count * to_bytes);
  }
}

}  // namespace

std::size_t band_bytes(Dtype dtype, std::int64_t rows, std::int64_t cols) {
  if (rows < 0 || cols <= 0 || cols % block_size(dtype) != 0) {
    fail("a {} matrix of {} x {} cannot be stored: columns must be a multiple of {}", name(dtype),
         rows, cols, block_size(dtype));
  }
  // Kernels count columns and bytes of a row in 31 bits.
  if (cols > (std::int64_t{1} << 28)) fail("a matrix of {} columns is too wide", cols);
  const auto bytes = checked_mul(rows, row_layout(dtype, cols).bytes);
  if (!bytes) fail("a matrix of {} x {} is too large", rows, cols);
  return static_cast<std::size_t>(*bytes);
}

Weight make_weight(std::span<const MatrixSource> bands, cudaStream_t stream) {
  Weight weight;
  std::int64_t slab_bytes = 0;
  for (const MatrixSource& source : bands) {
    if (weight.rows > 0 && source.cols != weight.cols) {
      fail("matrices of {} and {} columns cannot be stacked", weight.cols, source.cols);
    }
    weight.cols = source.cols;
    weight.rows += source.rows;
    const std::size_t bytes = band_bytes(source.dtype, source.rows, source.cols);
    weight.bytes += bytes;
    const std::int64_t row = row_layout(source.dtype, source.cols).bytes;
    slab_bytes =
        std::max(slab_bytes, std::min(std::max(kSlabBytes, row), static_cast<std::int64_t>(bytes)));
  }
  if (weight.bytes == 0) return weight;
  const DeviceMemory memory(weight.bytes);
  weight.storage = memory.storage();

  Upload upload(slab_bytes, stream);
  std::vector<std::byte> staging;
  std::byte* data = memory.data();
  std::int64_t first_row = 0;
  for (const MatrixSource& source : bands) {
    upload_source(source, upload, staging, data);
    // Rows stand alone, so bands of one type that follow each other are one band.
    if (!weight.bands.empty() && weight.bands.back().dtype == source.dtype) {
      weight.bands.back().rows += source.rows;
    } else {
      weight.bands.push_back(
          {.dtype = source.dtype, .first_row = first_row, .rows = source.rows, .data = data});
    }
    first_row += source.rows;
    data += band_bytes(source.dtype, source.rows, source.cols);
  }
  check(cudaStreamSynchronize(stream));
  return weight;
}

}  // namespace sedpa::cuda
