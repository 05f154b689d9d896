#include "tests/backend_cpu/random_rows.h"

#include <cstring>

#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/format/quant_blocks.h"

namespace sedpa::test {
namespace {

void put(std::byte* at, std::uint16_t bits) { std::memcpy(at, &bits, sizeof bits); }

/// Places of f16 scales in a block, which random bytes would fill with NaN and huge numbers.
std::vector<int> scale_places(Dtype dtype) {
  switch (dtype) {
    case Dtype::q4_1:
    case Dtype::q5_1:
    case Dtype::q4_k:
    case Dtype::q5_k:
      return {0, 2};
    case Dtype::q6_k:
      return {208};
    default:
      return {0};
  }
}

}  // namespace

MatrixSource RandomMatrix::source() const {
  return {.dtype = dtype,
          .rows = rows,
          .cols = cols,
          .read = [this](std::int64_t row, std::int64_t count, std::byte* out) {
            const std::int64_t size = row_bytes(dtype, cols);
            std::memcpy(out, bytes.data() + row * size, static_cast<std::size_t>(count * size));
          }};
}

std::vector<float> random_numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& x : numbers) x = normal(random);
  return numbers;
}

RandomMatrix random_matrix(Dtype dtype, std::int64_t rows, std::int64_t cols, unsigned seed) {
  RandomMatrix matrix{dtype, rows, cols, {}, {}};
  matrix.bytes.resize(static_cast<std::size_t>(rows * row_bytes(dtype, cols)));
  matrix.numbers.resize(static_cast<std::size_t>(rows * cols));
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> scale(0.001f, 0.02f);
  std::normal_distribution<float> normal;
  const std::int64_t blocks = rows * cols / block_size(dtype);
  std::byte* block = matrix.bytes.data();
  for (std::int64_t b = 0; b < blocks; ++b, block += block_bytes(dtype)) {
    if (block_size(dtype) == 1) {
      const float x = normal(random);
      if (dtype == Dtype::f32) std::memcpy(block, &x, 4);
      if (dtype == Dtype::f16) put(block, f32_to_f16(x));
      if (dtype == Dtype::bf16) put(block, f32_to_bf16(x));
      continue;
    }
    for (std::int64_t i = 0; i < block_bytes(dtype); ++i) {
      block[i] = std::byte{static_cast<std::uint8_t>(random())};
    }
    for (const int place : scale_places(dtype)) {
      const float sign = random() % 2 == 0 ? 1.0f : -1.0f;
      put(block + place, f32_to_f16(sign * scale(random)));
    }
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    dequantize_row(dtype, matrix.bytes.data() + row * row_bytes(dtype, cols), cols,
                   matrix.numbers.data() + row * cols);
  }
  return matrix;
}

std::vector<Dtype> all_dtypes() {
  std::vector<Dtype> all;
  for (int i = 0; i < kDtypeCount; ++i) all.push_back(static_cast<Dtype>(i));
  return all;
}

std::vector<Isa> usable_isas() {
  std::vector<Isa> usable;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (cpu::machine_runs(isa) && cpu::compiled_kernels(isa) != nullptr) usable.push_back(isa);
  }
  return usable;
}

}  // namespace sedpa::test
