#include "sedpa/backend/cuda/weight_format.h"

#include <bit>
#include <cstring>

#include "sedpa/format/quant_blocks.h"
#include "sedpa/format/stored_bytes.h"

namespace sedpa::cuda {
namespace {

using namespace stored;

static_assert(std::endian::native == std::endian::little,
              "planes are words as the device has them");

using Codes = std::uint8_t[kChunk];  // of one chunk, before any offset is taken off

void put_u32(std::byte* at, std::uint32_t value) { std::memcpy(at, &value, sizeof value); }

// --- Blocks of the file (ggml-common.h) -------------------------------------------------------

/// Codes of a chunk where the file's order is not ours: the k types, `chunk` of a block of eight.
void read_k_codes(Dtype dtype, const std::byte* block, std::int64_t chunk, Codes& codes) {
  if (dtype == Dtype::q6_k) {
    const std::int64_t quarter = chunk % 4;  // of 128 columns
    const std::byte* nibbles = block + chunk / 4 * 64 + quarter % 2 * 32;
    const std::byte* pairs = block + 128 + chunk / 4 * 32;
    for (int k = 0; k < 32; ++k) {
      const int bits = (u8(pairs + k) >> (2 * quarter)) & 3;
      codes[k] = static_cast<std::uint8_t>((quarter < 2 ? low(nibbles[k]) : high(nibbles[k])) |
                                           (bits << 4));
    }
    return;
  }
  const std::byte* nibbles = block + (dtype == Dtype::q4_k ? 16 : 48) + chunk / 2 * 32;
  for (int k = 0; k < 32; ++k) codes[k] = chunk % 2 == 0 ? low(nibbles[k]) : high(nibbles[k]);
  if (dtype == Dtype::q4_k) return;
  for (int k = 0; k < 32; ++k) {
    codes[k] = static_cast<std::uint8_t>(codes[k] | (((u8(block + 16 + k) >> chunk) & 1) << 4));
  }
}

void write_nibbles(const Codes& codes, std::byte* out) {
  for (int k = 0; k < 16; ++k) out[k] = std::byte((codes[k] & 0xf) | ((codes[k + 16] & 0xf) << 4));
}

/// Bit 4 of each code.
std::uint32_t high_bits(const Codes& codes) {
  std::uint32_t bits = 0;
  for (int k = 0; k < 32; ++k) {
    bits |= static_cast<std::uint32_t>((codes[k] >> 4) & 1) << (8 * (k % 4) + k / 4);
  }
  return bits;
}

/// Bits 4 and 5 of the codes of half a chunk.
std::uint32_t high_pairs(const std::uint8_t* codes) {
  std::uint32_t bits = 0;
  for (int k = 0; k < 16; ++k) {
    bits |= static_cast<std::uint32_t>(codes[k] >> 4) << (8 * (k % 4) + 2 * (k / 4));
  }
  return bits;
}

/// Puts the bits of the file's order, bit k for column k, where high_bits would.
std::uint32_t reorder_high_bits(std::uint32_t bits) {
  std::uint32_t out = 0;
  for (int k = 0; k < 32; ++k) out |= ((bits >> k) & 1u) << (8 * (k % 4) + k / 4);
  return out;
}

/// The nibbles of iq4_nl: columns 4 v .. of the low nibbles of word v into its low half.
void reorder_nibbles(const std::byte* from, std::byte* out) {
  for (int v = 0; v < 4; ++v) {
    std::uint32_t word = 0;
    for (int b = 0; b < 4; ++b) {
      word |= static_cast<std::uint32_t>(low(from[4 * v + b])) << (4 * b);
      word |= static_cast<std::uint32_t>(high(from[4 * v + b])) << (16 + 4 * b);
    }
    put_u32(out + 4 * v, word);
  }
}

void repack_simple(Dtype dtype, const std::byte* row, std::int64_t cols, const RowLayout& layout,
                   std::byte* out) {
  const std::int64_t chunks = cols / kChunk;
  const ChunkBytes bytes = chunk_bytes(dtype);
  for (std::int64_t c = 0; c < chunks; ++c) {
    const std::byte* block = row + c * block_bytes(dtype);
    std::memcpy(out + layout.scales + c * bytes.scales, block,
                static_cast<std::size_t>(bytes.scales));
    const std::byte* rest = block + bytes.scales;
    if (dtype == Dtype::q8_0) {
      std::memcpy(out + 16 * c, rest, 16);
      std::memcpy(out + 16 * (chunks + c), rest + 16, 16);
      continue;
    }
    if (bytes.high != 0) put_u32(out + layout.high + 4 * c, reorder_high_bits(u32(rest)));
    rest += bytes.high;
    if (dtype == Dtype::iq4_nl) {
      reorder_nibbles(rest, out + 16 * c);
    } else {
      std::memcpy(out + 16 * c, rest, 16);
    }
  }
}

void repack_k(Dtype dtype, const std::byte* row, std::int64_t cols, const RowLayout& layout,
              std::byte* out) {
  constexpr std::int64_t kChunks = kSuper / kChunk;
  for (std::int64_t b = 0; b < cols / kSuper; ++b) {
    const std::byte* block = row + b * block_bytes(dtype);
    if (dtype == Dtype::q6_k) {
      std::memcpy(out + layout.supers + 2 * b, block + 208, 2);
    } else {
      std::memcpy(out + layout.supers + 4 * b, block, 4);
    }
    for (std::int64_t k = 0; k < kChunks; ++k) {
      const std::int64_t c = b * kChunks + k;
      Codes codes;
      read_k_codes(dtype, block, k, codes);
      write_nibbles(codes, out + 16 * c);
      if (dtype == Dtype::q6_k) {
        put_u32(out + layout.high + 8 * c, high_pairs(codes));
        put_u32(out + layout.high + 8 * c + 4, high_pairs(codes + 16));
        std::memcpy(out + layout.scales + 2 * c, block + 192 + 2 * k, 2);
        continue;
      }
      if (dtype == Dtype::q5_k) put_u32(out + layout.high + 4 * c, high_bits(codes));
      const KScale scale = k_scale(block + 4, static_cast<int>(k));
      out[layout.scales + 2 * c] = std::byte{scale.scale};
      out[layout.scales + 2 * c + 1] = std::byte{scale.minimum};
    }
  }
}

// --- Reading back -----------------------------------------------------------------------------

/// The code of column k of a chunk, less its offset, as the number that the scale multiplies.
int code_of(Dtype dtype, const std::byte* row, const RowLayout& layout, std::int64_t chunks,
            std::int64_t c, int k) {
  if (dtype == Dtype::q8_0) {
    return static_cast<std::int8_t>(row[16 * (k / 16 * chunks + c) + k % 16]);
  }
  const std::uint32_t word = u32(row + 16 * c + k % 16 / 4 * 4);
  if (dtype == Dtype::iq4_nl) return kIq4Values[(word >> (k / 16 * 16 + k % 4 * 4)) & 0xf];
  int code = static_cast<int>((word >> (8 * (k % 4) + k / 16 * 4)) & 0xf);
  const int high = chunk_bytes(dtype).high;
  if (high == 4) code |= ((u32(row + layout.high + 4 * c) >> (8 * (k % 4) + k / 4)) & 1) << 4;
  if (high == 8) {
    const std::uint32_t pairs = u32(row + layout.high + 8 * c + k / 16 * 4);
    code |= ((pairs >> (8 * (k % 4) + 2 * (k % 16 / 4))) & 3) << 4;
  }
  if (dtype == Dtype::q4_0) return code - 8;
  if (dtype == Dtype::q5_0) return code - 16;
  if (dtype == Dtype::q6_k) return code - 32;
  return code;
}

}  // namespace

void repack_rows(Dtype dtype, const std::byte* rows, std::int64_t count, std::int64_t cols,
                 std::byte* out) {
  const RowLayout layout = row_layout(dtype, cols);
  const std::int64_t from_bytes = row_bytes(dtype, cols);
  if (stored_as_is(dtype, cols)) {
    if (count > 0) std::memcpy(out, rows, static_cast<std::size_t>(count * from_bytes));
    return;
  }
  std::memset(out, 0, static_cast<std::size_t>(count * layout.bytes));
  for (std::int64_t i = 0; i < count; ++i, rows += from_bytes, out += layout.bytes) {
    if (!is_quantized(dtype)) {
      std::memcpy(out, rows, static_cast<std::size_t>(from_bytes));
    } else if (chunk_bytes(dtype).supers != 0) {
      repack_k(dtype, rows, cols, layout, out);
    } else {
      repack_simple(dtype, rows, cols, layout, out);
    }
  }
}

void unpack_row(Dtype dtype, const std::byte* row, std::int64_t cols, float* out) {
  if (!is_quantized(dtype)) {
    for (std::int64_t k = 0; k < cols; ++k) {
      if (dtype == Dtype::f32) {
        std::memcpy(out + k, row + 4 * k, 4);
      } else if (dtype == Dtype::f16) {
        out[k] = f16(row + 2 * k);
      } else {
        std::uint16_t bits;
        std::memcpy(&bits, row + 2 * k, 2);
        out[k] = bf16_to_f32(bits);
      }
    }
    return;
  }
  const RowLayout layout = row_layout(dtype, cols);
  const std::int64_t chunks = cols / kChunk;
  const ChunkBytes bytes = chunk_bytes(dtype);
  for (std::int64_t c = 0; c < chunks; ++c) {
    const std::byte* scales = row + layout.scales + c * bytes.scales;
    const std::byte* supers = row + layout.supers + c / 8 * bytes.supers;
    float scale[2] = {};  // of the halves
    float minimum = 0;
    if (dtype == Dtype::q6_k) {
      for (int h = 0; h < 2; ++h) {
        scale[h] = f16(supers) * static_cast<float>(static_cast<std::int8_t>(scales[h]));
      }
    } else if (bytes.supers != 0) {
      scale[0] = scale[1] = f16(supers) * static_cast<float>(u8(scales));
      minimum = -f16(supers + 2) * static_cast<float>(u8(scales + 1));
    } else {
      scale[0] = scale[1] = f16(scales);
      if (bytes.scales == 4) minimum = f16(scales + 2);
    }
    for (int k = 0; k < kChunk; ++k) {
      const int code = code_of(dtype, row, layout, chunks, c, k);
      *out++ = scale[k / 16] * static_cast<float>(code) + minimum;
    }
  }
}

}  // namespace sedpa::cuda
