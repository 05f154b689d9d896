#include "sedpa/engine/random_kv.h"

#include <cstring>
#include <random>

#include "sedpa/attention/kv_policy.h"

namespace sedpa {
namespace {

// A number of the row: plain types store it, the others take its sign and size from a code.
void write_row(KvDtype dtype, std::int64_t dim, std::mt19937_64& random, std::byte* row) {
  const auto uniform = [&] {
    return static_cast<float>(2 * static_cast<double>(random() >> 11) * 0x1p-53 - 1);
  };
  const auto put16 = [&](std::int64_t i, std::uint16_t bits) {
    std::memcpy(row + 2 * i, &bits, sizeof bits);
  };
  switch (dtype) {
    case KvDtype::f32:
      for (std::int64_t i = 0; i < dim; ++i) {
        const float number = uniform();
        std::memcpy(row + 4 * i, &number, sizeof number);
      }
      return;
    case KvDtype::f16:
      for (std::int64_t i = 0; i < dim; ++i) put16(i, f32_to_f16(uniform()));
      return;
    case KvDtype::bf16:
      for (std::int64_t i = 0; i < dim; ++i) put16(i, f32_to_bf16(uniform()));
      return;
    case KvDtype::q8:
    case KvDtype::q4: {
      const std::int64_t scales = (dim + kKvBlock - 1) / kKvBlock;
      const float scale = dtype == KvDtype::q8 ? 1.0f / 127 : 1.0f / 8;
      for (std::int64_t i = 0; i < scales; ++i) put16(i, f32_to_f16(scale));
      const std::int64_t codes = kv_row_bytes(dtype, dim) - 2 * scales;
      for (std::int64_t i = 0; i < codes; ++i) row[2 * scales + i] = std::byte(random() >> 56);
      return;
    }
  }
}

}  // namespace

std::vector<std::byte> random_kv_rows(KvDtype dtype, std::int64_t dim, std::int64_t rows) {
  std::mt19937_64 random(1);
  const std::int64_t bytes = kv_row_bytes(dtype, dim);
  std::vector<std::byte> all(static_cast<std::size_t>(rows * bytes));
  for (std::int64_t i = 0; i < rows; ++i) write_row(dtype, dim, random, all.data() + i * bytes);
  return all;
}

}  // namespace sedpa
