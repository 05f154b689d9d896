// Cache rows against the encodings as they are described: IEEE conversions from core/dtype.h, and
// ggml's Q8_0 and Q4_0 rules written out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "sedpa/attention/kv_policy.h"
#include "sedpa/backend/cpu/attention_kernels.h"
#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/core/error.h"

namespace sedpa {
namespace {

constexpr Isa kIsas[] = {Isa::baseline, Isa::avx2, Isa::avx512};

const cpu::AttentionKernels* kernels_or_null(Isa isa) {
  try {
    return &cpu::attention_kernels(isa);
  } catch (const Error&) {
    return nullptr;
  }
}

std::vector<float> numbers(std::int64_t dim, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(dim);
  for (float& value : x) value = normal(random);
  if (seed % 3 == 0) x[dim / 2] = -40.0f;                  // an outlier
  if (seed % 5 == 0) std::fill(x.begin(), x.end(), 0.0f);  // nothing at all
  return x;
}

std::uint16_t half_at(const std::vector<std::byte>& row, std::int64_t offset) {
  std::uint16_t bits;
  std::memcpy(&bits, row.data() + offset, 2);
  return bits;
}

TEST(KvRows, AreEncodedAsDescribed) {
  for (const Isa isa : kIsas) {
    const cpu::AttentionKernels* kernels = kernels_or_null(isa);
    if (kernels == nullptr) continue;
    for (const std::int64_t dim : {2, 6, 16, 34, 64, 80, 96, 128, 250}) {
      for (unsigned seed = 1; seed < 8; ++seed) {
        const std::vector<float> x = numbers(dim, seed);
        std::vector<float> back(dim);
        for (const KvDtype dtype :
             {KvDtype::f32, KvDtype::f16, KvDtype::bf16, KvDtype::q8, KvDtype::q4}) {
          // One byte more, to see that nothing is written behind the row.
          const std::int64_t bytes = kv_row_bytes(dtype, dim);
          std::vector<std::byte> row(bytes + 1, std::byte{0xa5});
          kernels->encode(dtype, x.data(), dim, dim, row.data());
          ASSERT_EQ(row.back(), std::byte{0xa5});
          kernels->decode(dtype, row.data(), dim, back.data());
          const std::int64_t blocks = (dim + kKvBlock - 1) / kKvBlock;
          for (std::int64_t i = 0; i < dim; ++i) {
            const std::int64_t first = i / kKvBlock * kKvBlock;
            const auto begin = x.begin() + first;
            const auto end = x.begin() + std::min(dim, first + kKvBlock);
            const float largest = *std::max_element(
                begin, end, [](float a, float b) { return std::abs(a) < std::abs(b); });
            const std::uint16_t half = half_at(row, 2 * (i / kKvBlock));
            switch (dtype) {
              case KvDtype::f32:
                ASSERT_EQ(back[i], x[i]);
                break;
              case KvDtype::f16:
                ASSERT_EQ(half_at(row, 2 * i), f32_to_f16(x[i]));
                ASSERT_EQ(back[i], f16_to_f32(f32_to_f16(x[i])));
                break;
              case KvDtype::bf16:
                ASSERT_EQ(half_at(row, 2 * i), f32_to_bf16(x[i]));
                ASSERT_EQ(back[i], bf16_to_f32(f32_to_bf16(x[i])));
                break;
              case KvDtype::q8: {
                ASSERT_EQ(half, f32_to_f16(std::abs(largest) / 127.0f));
                const auto code = static_cast<std::int8_t>(row[2 * blocks + i]);
                const float scale = std::abs(largest) / 127.0f;
                const long nearest = scale == 0 ? 0 : std::lround(x[i] / scale);
                ASSERT_LE(std::abs(code - nearest), 1);
                ASSERT_LE(std::abs(code * scale - x[i]), 0.5001f * scale);
                ASSERT_EQ(back[i], static_cast<float>(code) * f16_to_f32(half));
                break;
              }
              case KvDtype::q4: {
                const float scale = largest / -8.0f;
                ASSERT_EQ(std::abs(f16_to_f32(half)), std::abs(f16_to_f32(f32_to_f16(scale))));
                const auto byte = static_cast<unsigned>(row[2 * blocks + i / 2]);
                const int code = static_cast<int>(i % 2 == 0 ? byte & 15u : byte >> 4) - 8;
                ASSERT_EQ(back[i], static_cast<float>(code) * f16_to_f32(half));
                // Half a step; a whole one at the end that has no code of its own.
                ASSERT_LE(std::abs(static_cast<float>(code) * scale - x[i]),
                          1.0001f * std::abs(scale));
                break;
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace sedpa
