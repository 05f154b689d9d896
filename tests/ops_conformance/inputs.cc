#include "tests/ops_conformance/inputs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "sedpa/format/quant_blocks.h"
#include "tests/ops_conformance/backends.h"

namespace sedpa::conformance {
namespace {

/// In [0, 1).
double uniform(Random& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

std::int64_t below(Random& random, std::int64_t n) {
  return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
}

void store_f16(std::byte* to, double value) {
  const std::uint16_t bits = f32_to_f16(static_cast<float>(value));
  std::memcpy(to, &bits, sizeof bits);
}

double load_f16(const std::byte* from) {
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return f16_to_f32(bits);
}

/// Where the f16 numbers of a block stand and how large they are when the block's numbers reach
/// about 1.
struct BlockScales {
  int scale_at;
  double scale;
  int min_at;  // -1: the type has none
  double min;
  double min_sign;  // of the stored number, for numbers on both sides of zero
};

BlockScales block_scales(Dtype dtype) {
  switch (dtype) {
    case Dtype::q8_0:
    case Dtype::iq4_nl:
      return {0, 1.0 / 127, -1, 0, 0};
    case Dtype::q4_0:
      return {0, 1.0 / 8, -1, 0, 0};
    case Dtype::q4_1:
      return {0, 2.0 / 15, 2, 1.0, -1};
    case Dtype::q5_0:
      return {0, 1.0 / 16, -1, 0, 0};
    case Dtype::q5_1:
      return {0, 2.0 / 31, 2, 1.0, -1};
    case Dtype::q4_k:
      return {0, 2.0 / (15 * 63), 2, 1.0 / 63, 1};
    case Dtype::q5_k:
      return {0, 2.0 / (31 * 63), 2, 1.0 / 63, 1};
    case Dtype::q6_k:
      return {208, 1.0 / (127 * 32), -1, 0, 0};
    case Dtype::f32:
    case Dtype::f16:
    case Dtype::bf16:
      break;
  }
  return {};
}

constexpr double kAmplitude = 1.0 / 16;  // of the largest numbers of most blocks

void fill_block(Random& random, Dtype dtype, bool extreme, std::byte* block) {
  const std::int64_t bytes = block_bytes(dtype);
  for (std::int64_t i = 0; i < bytes; ++i) {
    const bool is_signed = dtype == Dtype::q8_0 || (dtype == Dtype::q6_k && i >= 192);
    const int largest = is_signed ? 0x7f : 0xff;
    block[i] = static_cast<std::byte>(extreme ? largest : below(random, 256));
  }
  const BlockScales at = block_scales(dtype);
  double size = kAmplitude;
  double sign = 1;
  if (!extreme) {
    size *= 0.25 + 0.75 * uniform(random);
    if (below(random, 16) == 0) size /= 64;
    if (below(random, 32) == 0) size = 0;
    if (below(random, 4) == 0) sign = -1;
  }
  store_f16(block + at.scale_at, sign * size * at.scale);
  if (at.min_at >= 0) store_f16(block + at.min_at, sign * size * at.min * at.min_sign);
}

void fill_plain(Random& random, Dtype dtype, bool extreme, std::span<std::byte> row) {
  const std::size_t width = static_cast<std::size_t>(block_bytes(dtype));
  for (std::size_t at = 0; at < row.size(); at += width) {
    const auto value =
        extreme ? static_cast<float>(kAmplitude) : normal(random, 1, kAmplitude / 2).front();
    const std::uint16_t half = dtype == Dtype::f16 ? f32_to_f16(value) : f32_to_bf16(value);
    if (dtype == Dtype::f32) {
      std::memcpy(row.data() + at, &value, width);
    } else {
      std::memcpy(row.data() + at, &half, width);
    }
  }
}

}  // namespace

std::vector<float> normal(Random& random, std::int64_t count, double scale) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    // Twelve uniform numbers: mean 6, variance 1; u of the tails are not needed here.
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform(random);
    value = static_cast<float>(sum * scale);
  }
  return values;
}

std::vector<float> activations(Random& random, Activations kind, std::int64_t rows,
                               std::int64_t cols) {
  if (kind == Activations::natural) {
    auto values = normal(random, rows * cols);
    for (std::int64_t t = 0; t < rows; ++t) {
      float* row = values.data() + t * cols;
      const auto size = static_cast<float>(std::exp2(below(random, 9) - 4));
      for (std::int64_t k = 0; k < cols; ++k) {
        row[k] *= below(random, 100) == 0 ? 30 * size : size;
      }
      if (t == 3) std::fill_n(row, cols, 0.0f);
      if (t == 5) std::fill_n(row, (cols + 1) / 2, 0.0f);
    }
    return values;
  }
  std::vector<float> values(static_cast<std::size_t>(rows * cols));
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t begin = 0; begin < cols; begin += kInt15Block) {
      const std::int64_t count = std::min<std::int64_t>(kInt15Block, cols - begin);
      const double size = std::exp2(below(random, 7) - 9);
      const std::int64_t peak = below(random, count);
      for (std::int64_t k = 0; k < count; ++k) {
        const std::int64_t code =
            k == peak || kind == Activations::extreme ? 127 : below(random, 255) - 127;
        values[static_cast<std::size_t>(t * cols + begin + k)] =
            static_cast<float>(static_cast<double>(code) * size);
      }
    }
  }
  return values;
}

MatrixSource StoredMatrix::source() const {
  return {.dtype = dtype,
          .rows = values.rows,
          .cols = values.cols,
          .read = [this](std::int64_t row, std::int64_t count, std::byte* out) {
            const auto width = static_cast<std::size_t>(row_bytes(dtype, values.cols));
            std::memcpy(out, bytes.data() + static_cast<std::size_t>(row) * width,
                        static_cast<std::size_t>(count) * width);
          }};
}

StoredMatrix stored_matrix(Random& random, Dtype dtype, std::int64_t rows, std::int64_t cols,
                           bool extreme) {
  const auto width = static_cast<std::size_t>(row_bytes(dtype, cols));
  StoredMatrix matrix;
  matrix.dtype = dtype;
  matrix.bytes.resize(static_cast<std::size_t>(rows) * width);
  matrix.values = Matrix(rows, cols);
  const bool has_k_scales = dtype == Dtype::q4_k || dtype == Dtype::q5_k || dtype == Dtype::q6_k;
  if (has_k_scales) matrix.k_scale_radius = Matrix(rows, cols);

  std::vector<float> numbers(static_cast<std::size_t>(cols));
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto row = std::span(matrix.bytes).subspan(static_cast<std::size_t>(r) * width, width);
    const auto step = static_cast<std::size_t>(block_bytes(dtype));
    if (block_size(dtype) == 1) {
      fill_plain(random, dtype, extreme, row);
    } else {
      for (std::size_t at = 0; at < width; at += step) {
        fill_block(random, dtype, extreme, row.data() + at);
      }
    }
    dequantize_row(dtype, row.data(), cols, numbers.data());
    std::copy(numbers.begin(), numbers.end(), matrix.values.row(r));
    for (std::int64_t k = 0; has_k_scales && k < cols; ++k) {
      // |d scale q| is at most the number and its min together; both products round.
      const std::byte* block = row.data() + static_cast<std::size_t>(k / block_size(dtype)) * step;
      const double min = dtype == Dtype::q6_k ? 0 : 63 * std::abs(load_f16(block + 2));
      matrix.k_scale_radius.at(r, k) = 0x1p-11 * (std::abs(matrix.values.at(r, k)) + 2 * min);
    }
  }
  return matrix;
}

}  // namespace sedpa::conformance
