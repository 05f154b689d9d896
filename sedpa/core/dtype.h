#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace sedpa {

/// How the numbers of a stored matrix are encoded: the element types of GGUF and safetensors.
/// A quantised row is a run of blocks; block sizes and layouts are those of ggml.
enum class Dtype : std::uint8_t {
  f32,
  f16,
  bf16,
  q8_0,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
};
inline constexpr int kDtypeCount = 12;

/// How keys and values are stored in the KV cache. q8 and q4 quantise each head vector in blocks
/// of 32 with one f16 scale each (see attention/kv_policy.h for the row layout).
enum class KvDtype : std::uint8_t { f32, f16, bf16, q8, q4 };

/// Numbers in one block; 1 for the plain types.
[[nodiscard]] std::int64_t block_size(Dtype dtype);
/// Bytes of one block.
[[nodiscard]] std::int64_t block_bytes(Dtype dtype);
/// Bytes of a row of `cols` numbers; `cols` must be a multiple of block_size.
[[nodiscard]] std::int64_t row_bytes(Dtype dtype, std::int64_t cols);

/// Lower-case names as people write them: "f16", "q4_k".
[[nodiscard]] std::string_view name(Dtype dtype);
[[nodiscard]] std::string_view name(KvDtype dtype);
[[nodiscard]] std::optional<KvDtype> parse_kv_dtype(std::string_view text);

/// IEEE half and bfloat16 conversions, round to nearest even, infinities and NaN kept.
[[nodiscard]] float f16_to_f32(std::uint16_t bits);
[[nodiscard]] std::uint16_t f32_to_f16(float value);
[[nodiscard]] inline float bf16_to_f32(std::uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
}
[[nodiscard]] inline std::uint16_t f32_to_bf16(float value) {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace sedpa
