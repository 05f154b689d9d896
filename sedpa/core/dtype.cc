#include "sedpa/core/dtype.h"

#include <array>

namespace sedpa {
namespace {

struct DtypeTraits {
  std::string_view name;
  std::int64_t block_size;
  std::int64_t block_bytes;
};

constexpr std::array<DtypeTraits, kDtypeCount> kTraits = {{
    {"f32", 1, 4},
    {"f16", 1, 2},
    {"bf16", 1, 2},
    {"q8_0", 32, 34},
    {"q4_0", 32, 18},
    {"q4_1", 32, 20},
    {"q5_0", 32, 22},
    {"q5_1", 32, 24},
    {"q4_k", 256, 144},
    {"q5_k", 256, 176},
    {"q6_k", 256, 210},
    {"iq4_nl", 32, 18},
}};

constexpr std::array<std::string_view, 5> kKvNames = {"f32", "f16", "bf16", "q8", "q4"};

const DtypeTraits& traits(Dtype dtype) { return kTraits[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::int64_t block_size(Dtype dtype) { return traits(dtype).block_size; }
std::int64_t block_bytes(Dtype dtype) { return traits(dtype).block_bytes; }
std::int64_t row_bytes(Dtype dtype, std::int64_t cols) {
  return cols / traits(dtype).block_size * traits(dtype).block_bytes;
}
std::string_view name(Dtype dtype) { return traits(dtype).name; }
std::string_view name(KvDtype dtype) { return kKvNames[static_cast<std::size_t>(dtype)]; }

std::optional<KvDtype> parse_kv_dtype(std::string_view text) {
  for (std::size_t i = 0; i < kKvNames.size(); ++i) {
    if (kKvNames[i] == text) return static_cast<KvDtype>(i);
  }
  return std::nullopt;
}

float f16_to_f32(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: the value is mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, magnitude) | sign);
  }
  const std::uint32_t rebased = exponent == 0x1f ? 0xffu : exponent + 112u;
  return __builtin_bit_cast(float, sign | (rebased << 23) | (mantissa << 13));
}

std::uint16_t f32_to_f16(float value) {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // overflow
  if (magnitude < 0x38800000u) {  // subnormal half: let the f32 adder round at 2^-24
    const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign |
                                      (__builtin_bit_cast(std::uint32_t, shifted) - 0x3f000000u));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace sedpa
