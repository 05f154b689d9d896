#include "sedpa/format/quant_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

constexpr int kBlock = 32;  // numbers in a block of the simple types; the k types have 256

std::uint8_t byte_at(const std::byte* data, int i) { return static_cast<std::uint8_t>(data[i]); }

std::uint16_t load_u16(const std::byte* data) {
  std::uint16_t value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

std::uint32_t load_u32(const std::byte* data) {
  std::uint32_t value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

float load_f16(const std::byte* data) { return f16_to_f32(load_u16(data)); }

void store_f16(std::byte* data, float value) {
  const std::uint16_t bits = f32_to_f16(value);
  std::memcpy(data, &bits, sizeof bits);
}

int low_nibble(std::uint8_t byte) { return byte & 15; }
int high_nibble(std::uint8_t byte) { return byte >> 4; }

// One block each: `in` as stored, `out` its numbers. A nibble block keeps numbers i and i + 16 in
// byte i, low and high.

// [f16 d][32 x i8]: d * q
void dequantize_q8_0(const std::byte* in, float* out) {
  const float d = load_f16(in);
  for (int i = 0; i < kBlock; ++i) out[i] = d * static_cast<std::int8_t>(in[2 + i]);
}

// [f16 d][16 bytes of nibbles]: d * (q - 8)
void dequantize_q4_0(const std::byte* in, float* out) {
  const float d = load_f16(in);
  for (int i = 0; i < kBlock / 2; ++i) {
    const std::uint8_t both = byte_at(in, 2 + i);
    out[i] = d * static_cast<float>(low_nibble(both) - 8);
    out[i + kBlock / 2] = d * static_cast<float>(high_nibble(both) - 8);
  }
}

// [f16 d][f16 m][16 bytes of nibbles]: d * q + m
void dequantize_q4_1(const std::byte* in, float* out) {
  const float d = load_f16(in);
  const float m = load_f16(in + 2);
  for (int i = 0; i < kBlock / 2; ++i) {
    const std::uint8_t both = byte_at(in, 4 + i);
    out[i] = d * static_cast<float>(low_nibble(both)) + m;
    out[i + kBlock / 2] = d * static_cast<float>(high_nibble(both)) + m;
  }
}

/// Number i of a 5-bit block: four bits in a nibble, the fifth in bit i of `high`.
int five_bits(std::uint32_t high, const std::byte* nibbles, int i) {
  const std::uint8_t both = byte_at(nibbles, i % (kBlock / 2));
  const int low = i < kBlock / 2 ? low_nibble(both) : high_nibble(both);
  return low | static_cast<int>((high >> i) & 1u) << 4;
}

// [f16 d][u32 high bits][16 bytes of nibbles]: d * (q - 16)
void dequantize_q5_0(const std::byte* in, float* out) {
  const float d = load_f16(in);
  const std::uint32_t high = load_u32(in + 2);
  for (int i = 0; i < kBlock; ++i) out[i] = d * static_cast<float>(five_bits(high, in + 6, i) - 16);
}

// [f16 d][f16 m][u32 high bits][16 bytes of nibbles]: d * q + m
void dequantize_q5_1(const std::byte* in, float* out) {
  const float d = load_f16(in);
  const float m = load_f16(in + 2);
  const std::uint32_t high = load_u32(in + 4);
  for (int i = 0; i < kBlock; ++i) out[i] = d * static_cast<float>(five_bits(high, in + 8, i)) + m;
}

// [f16 d][f16 dmin][12 bytes of scales][128 bytes of nibbles]: d * scale * q - dmin * min, eight
// groups of 32; groups 2j and 2j + 1 are the low and the high nibbles of the same 32 bytes.
void dequantize_q4_k(const std::byte* in, float* out) {
  const float d = load_f16(in);
  const float dmin = load_f16(in + 2);
  const std::byte* const nibbles = in + 16;
  for (int group = 0; group < 8; ++group) {
    const auto [scale, min] = k_scale(in + 4, group);
    const float group_d = d * static_cast<float>(scale);
    const float group_min = dmin * static_cast<float>(min);
    for (int i = 0; i < 32; ++i) {
      const std::uint8_t both = byte_at(nibbles, group / 2 * 32 + i);
      const int q = group % 2 == 0 ? low_nibble(both) : high_nibble(both);
      out[group * 32 + i] = group_d * static_cast<float>(q) - group_min;
    }
  }
}

// As q4_k, with 32 bytes of high bits before the nibbles: bit `group` of byte i is the fifth bit.
void dequantize_q5_k(const std::byte* in, float* out) {
  const float d = load_f16(in);
  const float dmin = load_f16(in + 2);
  const std::byte* const high = in + 16;
  const std::byte* const nibbles = in + 48;
  for (int group = 0; group < 8; ++group) {
    const auto [scale, min] = k_scale(in + 4, group);
    const float group_d = d * static_cast<float>(scale);
    const float group_min = dmin * static_cast<float>(min);
    for (int i = 0; i < 32; ++i) {
      const std::uint8_t both = byte_at(nibbles, group / 2 * 32 + i);
      const int low = group % 2 == 0 ? low_nibble(both) : high_nibble(both);
      const int q = low | (byte_at(high, i) >> group & 1) << 4;
      out[group * 32 + i] = group_d * static_cast<float>(q) - group_min;
    }
  }
}

// [128 bytes of nibbles][64 bytes of bit pairs][16 x i8 scale][f16 d]: d * scale * (q - 32), in two
// halves of 128 numbers; of each half, quarter k takes nibble k / 2 of bytes 32 (k % 2) + i and
// bits 2k, 2k + 1 of pair byte i. A scale serves 16 numbers.
void dequantize_q6_k(const std::byte* in, float* out) {
  const float d = load_f16(in + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* const nibbles = in + half * 64;
    const std::byte* const pairs = in + 128 + half * 32;
    const std::byte* const scales = in + 192 + half * 8;
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int i = 0; i < 32; ++i) {
        const std::uint8_t both = byte_at(nibbles, quarter % 2 * 32 + i);
        const int low = quarter < 2 ? low_nibble(both) : high_nibble(both);
        const int q = low | (byte_at(pairs, i) >> (2 * quarter) & 3) << 4;
        const auto scale = static_cast<std::int8_t>(scales[quarter * 2 + i / 16]);
        out[half * 128 + quarter * 32 + i] = d * scale * static_cast<float>(q - 32);
      }
    }
  }
}

// [f16 d][16 bytes of nibbles]: d * table[q]
void dequantize_iq4_nl(const std::byte* in, float* out) {
  constexpr std::array<float, 16> kTable = {-127, -104, -83, -65, -49, -35, -22, -10,
                                            1,    13,   25,  38,  53,  69,  89,  113};
  const float d = load_f16(in);
  for (int i = 0; i < kBlock / 2; ++i) {
    const std::uint8_t both = byte_at(in, 2 + i);
    out[i] = d * kTable[static_cast<std::size_t>(low_nibble(both))];
    out[i + kBlock / 2] = d * kTable[static_cast<std::size_t>(high_nibble(both))];
  }
}

using Dequantize = void (*)(const std::byte* in, float* out);
void dequantize_blocks(Dequantize block, Dtype dtype, const std::byte* row, std::int64_t cols,
                       float* out) {
  const std::int64_t size = block_size(dtype);
  const std::int64_t bytes = block_bytes(dtype);
  for (std::int64_t i = 0; i < cols / size; ++i) block(row + i * bytes, out + i * size);
}

/// `value` cut to an integer in [low, high]; NaN gives low, where a cast would be undefined.
int cut(float value, int low, int high) {
  if (!(value > static_cast<float>(low))) return low;
  if (value >= static_cast<float>(high)) return high;
  return static_cast<int>(value);
}

float inverse(float d) { return d != 0.0f ? 1.0f / d : 0.0f; }

/// The number of largest magnitude, with its sign; the first of equals.
float signed_peak(const float* in) {
  float peak = 0.0f;
  for (int i = 0; i < kBlock; ++i) {
    if (std::fabs(in[i]) > std::fabs(peak)) peak = in[i];
  }
  return peak;
}

void quantize_q8_0(const float* in, std::byte* out) {
  float peak = 0.0f;
  for (int i = 0; i < kBlock; ++i) peak = std::max(peak, std::fabs(in[i]));
  const float d = peak / 127.0f;
  const float scale = inverse(d);
  store_f16(out, d);
  for (int i = 0; i < kBlock; ++i) {
    out[2 + i] = static_cast<std::byte>(cut(std::round(in[i] * scale), -127, 127));
  }
}

/// Writes 32 numbers of up to five bits: the low four as nibbles, the fifth returned as bit i.
std::uint32_t store_nibbles(const std::array<int, kBlock>& q, std::byte* nibbles) {
  std::uint32_t high = 0;
  for (int i = 0; i < kBlock / 2; ++i) {
    const int first = q[static_cast<std::size_t>(i)];
    const int second = q[static_cast<std::size_t>(i + kBlock / 2)];
    nibbles[i] = static_cast<std::byte>((first & 15) | (second & 15) << 4);
    high |= static_cast<std::uint32_t>(first >> 4) << i;
    high |= static_cast<std::uint32_t>(second >> 4) << (i + kBlock / 2);
  }
  return high;
}

/// The signed types q4_0 and q5_0: the peak becomes the lowest code, so that it is met exactly.
std::array<int, kBlock> quantize_signed(const float* in, int levels, float& d) {
  const auto half = static_cast<float>(levels / 2);
  d = signed_peak(in) / -half;
  const float scale = inverse(d);
  std::array<int, kBlock> q{};
  for (std::size_t i = 0; i < q.size(); ++i)
    q[i] = cut(in[i] * scale + (half + 0.5f), 0, levels - 1);
  return q;
}

/// The types with a minimum, q4_1 and q5_1.
std::array<int, kBlock> quantize_affine(const float* in, int levels, float& d, float& min) {
  const auto [lowest, highest] = std::minmax_element(in, in + kBlock);
  min = *lowest;
  d = (*highest - min) / static_cast<float>(levels - 1);
  const float scale = inverse(d);
  std::array<int, kBlock> q{};
  for (std::size_t i = 0; i < q.size(); ++i)
    q[i] = cut((in[i] - min) * scale + 0.5f, 0, levels - 1);
  return q;
}

void quantize_q4_0(const float* in, std::byte* out) {
  float d = 0.0f;
  store_nibbles(quantize_signed(in, 16, d), out + 2);
  store_f16(out, d);
}

void quantize_q5_0(const float* in, std::byte* out) {
  float d = 0.0f;
  const std::uint32_t high = store_nibbles(quantize_signed(in, 32, d), out + 6);
  std::memcpy(out + 2, &high, sizeof high);
  store_f16(out, d);
}

void quantize_q4_1(const float* in, std::byte* out) {
  float d = 0.0f;
  float min = 0.0f;
  store_nibbles(quantize_affine(in, 16, d, min), out + 4);
  store_f16(out, d);
  store_f16(out + 2, min);
}

void quantize_q5_1(const float* in, std::byte* out) {
  float d = 0.0f;
  float min = 0.0f;
  const std::uint32_t high = store_nibbles(quantize_affine(in, 32, d, min), out + 8);
  std::memcpy(out + 4, &high, sizeof high);
  store_f16(out, d);
  store_f16(out + 2, min);
}

using Quantize = void (*)(const float* in, std::byte* out);
void quantize_blocks(Quantize block, Dtype dtype, const float* in, std::int64_t cols,
                     std::byte* out) {
  const std::int64_t size = block_size(dtype);
  const std::int64_t bytes = block_bytes(dtype);
  for (std::int64_t i = 0; i < cols / size; ++i) block(in + i * size, out + i * bytes);
}

}  // namespace

void dequantize_row(Dtype dtype, const std::byte* row, std::int64_t cols, float* out) {
  switch (dtype) {
    case Dtype::f32:
      if (cols > 0) std::memcpy(out, row, static_cast<std::size_t>(cols) * sizeof(float));
      return;
    case Dtype::f16:
      for (std::int64_t i = 0; i < cols; ++i) out[i] = load_f16(row + 2 * i);
      return;
    case Dtype::bf16:
      for (std::int64_t i = 0; i < cols; ++i) out[i] = bf16_to_f32(load_u16(row + 2 * i));
      return;
    case Dtype::q8_0:
      return dequantize_blocks(dequantize_q8_0, dtype, row, cols, out);
    case Dtype::q4_0:
      return dequantize_blocks(dequantize_q4_0, dtype, row, cols, out);
    case Dtype::q4_1:
      return dequantize_blocks(dequantize_q4_1, dtype, row, cols, out);
    case Dtype::q5_0:
      return dequantize_blocks(dequantize_q5_0, dtype, row, cols, out);
    case Dtype::q5_1:
      return dequantize_blocks(dequantize_q5_1, dtype, row, cols, out);
    case Dtype::q4_k:
      return dequantize_blocks(dequantize_q4_k, dtype, row, cols, out);
    case Dtype::q5_k:
      return dequantize_blocks(dequantize_q5_k, dtype, row, cols, out);
    case Dtype::q6_k:
      return dequantize_blocks(dequantize_q6_k, dtype, row, cols, out);
    case Dtype::iq4_nl:
      return dequantize_blocks(dequantize_iq4_nl, dtype, row, cols, out);
  }
}

void quantize_row(Dtype dtype, const float* in, std::int64_t cols, std::byte* out) {
  switch (dtype) {
    case Dtype::f32:
      if (cols > 0) std::memcpy(out, in, static_cast<std::size_t>(cols) * sizeof(float));
      return;
    case Dtype::f16:
      for (std::int64_t i = 0; i < cols; ++i) store_f16(out + 2 * i, in[i]);
      return;
    case Dtype::bf16:
      for (std::int64_t i = 0; i < cols; ++i) {
        const std::uint16_t bits = f32_to_bf16(in[i]);
        std::memcpy(out + 2 * i, &bits, sizeof bits);
      }
      return;
    case Dtype::q8_0:
      return quantize_row_q8_0(in, cols, out);
    case Dtype::q4_0:
      return quantize_blocks(quantize_q4_0, dtype, in, cols, out);
    case Dtype::q4_1:
      return quantize_blocks(quantize_q4_1, dtype, in, cols, out);
    case Dtype::q5_0:
      return quantize_blocks(quantize_q5_0, dtype, in, cols, out);
    case Dtype::q5_1:
      return quantize_blocks(quantize_q5_1, dtype, in, cols, out);
    case Dtype::q4_k:
    case Dtype::q5_k:
    case Dtype::q6_k:
    case Dtype::iq4_nl:
      break;
  }
  fail("{} is only read here, not written", name(dtype));
}

void quantize_row_q8_0(const float* in, std::int64_t cols, std::byte* out) {
  quantize_blocks(quantize_q8_0, Dtype::q8_0, in, cols, out);
}

KScale k_scale(const std::byte* packed, int group) {
  const auto at = [&](int i) { return byte_at(packed, i); };
  const auto byte = [](int value) { return static_cast<std::uint8_t>(value); };
  if (group < 4) return {byte(at(group) & 63), byte(at(group + 4) & 63)};
  const int low = at(group + 4);
  return {byte((low & 15) | (at(group - 4) >> 6) << 4), byte((low >> 4) | (at(group) >> 6) << 4)};
}

}  // namespace sedpa
