#include "sedpa/backend/cpu/panel_format.h"

#include <algorithm>
#include <cstring>

#include "sedpa/format/quant_blocks.h"
#include "sedpa/format/stored_bytes.h"

namespace sedpa::cpu {
namespace {

using namespace stored;

using Codes = std::uint8_t[kGroup];  // of one row and group, before any offset is taken off

// --- Blocks of the file (ggml-common.h) -------------------------------------------------------

/// 16 bytes: columns 0 .. 15 in the low nibbles, 16 .. 31 in the high ones.
void read_nibbles(const std::byte* from, Codes& codes) {
  for (int k = 0; k < 16; ++k) {
    codes[k] = low(from[k]);
    codes[k + 16] = high(from[k]);
  }
}

void read_codes(Dtype dtype, const std::byte* block, int group, Codes& codes) {
  switch (dtype) {
    case Dtype::q8_0:
      for (int k = 0; k < 32; ++k) codes[k] = u8(block + 2 + k) ^ 0x80;
      return;
    case Dtype::q4_0:
    case Dtype::iq4_nl:
      return read_nibbles(block + 2, codes);
    case Dtype::q4_1:
      return read_nibbles(block + 4, codes);
    case Dtype::q5_0:
    case Dtype::q5_1: {
      const std::byte* bits = block + (dtype == Dtype::q5_0 ? 2 : 4);
      read_nibbles(bits + 4, codes);
      for (int k = 0; k < 32; ++k) codes[k] |= ((u32(bits) >> k) & 1) << 4;
      return;
    }
    case Dtype::q4_k:
    case Dtype::q5_k: {
      const std::byte* nibbles = block + (dtype == Dtype::q4_k ? 16 : 48) + group / 2 * 32;
      for (int k = 0; k < 32; ++k) codes[k] = group % 2 == 0 ? low(nibbles[k]) : high(nibbles[k]);
      if (dtype == Dtype::q5_k) {
        for (int k = 0; k < 32; ++k) codes[k] |= ((u8(block + 16 + k) >> group) & 1) << 4;
      }
      return;
    }
    case Dtype::q6_k: {
      const int quarter = group % 4;  // of 128 columns
      const std::byte* nibbles = block + group / 4 * 64 + quarter % 2 * 32;
      const std::byte* pairs = block + 128 + group / 4 * 32;
      for (int k = 0; k < 32; ++k) {
        codes[k] = quarter < 2 ? low(nibbles[k]) : high(nibbles[k]);
        codes[k] |= ((u8(pairs + k) >> (2 * quarter)) & 3) << 4;
      }
      return;
    }
    case Dtype::f32:
    case Dtype::f16:
    case Dtype::bf16:
      return;
  }
}

// --- Panels -----------------------------------------------------------------------------------

/// Puts what stands in a block beside its codes where the panel has it. `head` is the block of the
/// panel, `group_at` the group's scales.
void write_scales(Dtype dtype, const std::byte* block, int group, int row, std::byte* head,
                  std::byte* group_at) {
  switch (dtype) {
    case Dtype::q4_k:
    case Dtype::q5_k: {
      std::memcpy(head + 2 * row, block, 2);
      std::memcpy(head + 32 + 2 * row, block + 2, 2);
      const KScale scale = k_scale(block + 4, group);
      group_at[row] = std::byte{scale.scale};
      group_at[16 + row] = std::byte{scale.minimum};
      return;
    }
    case Dtype::q6_k:
      std::memcpy(head + 2 * row, block + 208, 2);
      group_at[row] = block[192 + 2 * group];
      group_at[16 + row] = block[192 + 2 * group + 1];
      return;
    case Dtype::q4_1:
    case Dtype::q5_1:
      std::memcpy(group_at + 32 + 2 * row, block + 2, 2);
      [[fallthrough]];
    default:
      std::memcpy(group_at + 2 * row, block, 2);
  }
}

void write_codes(const PanelLayout& layout, const Codes& codes, int row, std::byte* at) {
  at += 4 * row;
  const auto put = [&](int offset, int bits) {
    at[offset] |= std::byte{static_cast<std::uint8_t>(bits)};
  };
  if (layout.codes == 512) {
    for (int k = 0; k < 32; ++k) put(k / 4 * 64 + k % 4, codes[k]);
    return;
  }
  for (int k = 0; k < 16; ++k) {
    put(k / 4 * 64 + k % 4, (codes[k] & 0xf) | ((codes[k + 16] & 0xf) << 4));
  }
  for (int k = 0; k < 32 && layout.plane == 64; ++k) put(256 + k % 4, (codes[k] >> 4) << (k / 4));
  for (int k = 0; k < 32 && layout.plane == 128; ++k) {
    put(256 + k / 16 * 64 + k % 4, (codes[k] >> 4) << (2 * (k / 4 % 4)));
  }
}

/// The inverse of write_codes.
void load_codes(const PanelLayout& layout, const std::byte* at, int row, Codes& codes) {
  at += 4 * row;
  for (int k = 0; k < 32; ++k) {
    if (layout.codes == 512) {
      codes[k] = u8(at + k / 4 * 64 + k % 4);
      continue;
    }
    const std::byte both = at[k % 16 / 4 * 64 + k % 4];
    codes[k] = k < 16 ? low(both) : high(both);
    if (layout.plane == 64) codes[k] |= ((u8(at + 256 + k % 4) >> (k / 4)) & 1) << 4;
    if (layout.plane == 128) {
      codes[k] |= ((u8(at + 256 + k / 16 * 64 + k % 4) >> (2 * (k / 4 % 4))) & 3) << 4;
    }
  }
}

void pack_quantized(Dtype dtype, const std::byte* rows, std::int64_t count, std::int64_t cols,
                    std::byte* panel) {
  const PanelLayout layout = panel_layout(dtype);
  std::memset(panel, 0, static_cast<std::size_t>(panel_bytes(dtype, cols)));
  const std::int64_t blocks = cols / block_size(dtype);
  for (std::int64_t row = 0; row < count; ++row) {
    const std::byte* from = rows + row * row_bytes(dtype, cols);
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::byte* block = from + b * block_bytes(dtype);
      std::byte* to = panel + b * layout.block();
      for (int g = 0; g < layout.groups; ++g) {
        std::byte* group_at = to + layout.head + g * layout.group();
        Codes codes = {};
        read_codes(dtype, block, g, codes);
        write_scales(dtype, block, g, static_cast<int>(row), to, group_at);
        write_codes(layout, codes, static_cast<int>(row), group_at + layout.scales);
      }
    }
  }
}

void unpack_quantized(Dtype dtype, const std::byte* panel, int row, std::int64_t cols, float* out) {
  const PanelLayout layout = panel_layout(dtype);
  for (std::int64_t b = 0; b < cols / block_size(dtype); ++b, panel += layout.block()) {
    for (int g = 0; g < layout.groups; ++g, out += kGroup) {
      const std::byte* at = panel + layout.head + g * layout.group();
      Codes codes = {};
      load_codes(layout, at + layout.scales, row, codes);
      float scale[2];  // of the first and the second half
      float minimum = 0;
      int offset = 0;
      switch (dtype) {
        case Dtype::q6_k:
          scale[0] = f16(panel + 2 * row) * static_cast<float>(static_cast<std::int8_t>(at[row]));
          scale[1] =
              f16(panel + 2 * row) * static_cast<float>(static_cast<std::int8_t>(at[16 + row]));
          offset = 32;
          break;
        case Dtype::q4_k:
        case Dtype::q5_k:
          scale[0] = scale[1] = f16(panel + 2 * row) * static_cast<float>(u8(at + row));
          minimum = -f16(panel + 32 + 2 * row) * static_cast<float>(u8(at + 16 + row));
          break;
        default:
          scale[0] = scale[1] = f16(at + 2 * row);
          if (layout.scales == 64) minimum = f16(at + 32 + 2 * row);
          if (dtype == Dtype::q4_0) offset = 8;
          if (dtype == Dtype::q5_0) offset = 16;
          if (dtype == Dtype::q8_0 || dtype == Dtype::iq4_nl) offset = 128;
      }
      for (int k = 0; k < kGroup; ++k) {
        const int code = dtype == Dtype::iq4_nl ? kIq4Values[codes[k]] : codes[k];
        out[k] = scale[k / 16] * static_cast<float>(code - offset) + minimum;
      }
    }
  }
}

/// Columns of numbers of `size` bytes, in runs of `run` columns: out [cols / run][16][run].
template <std::size_t kSize>
void interleave(const std::byte* rows, std::int64_t count, std::int64_t cols, std::int64_t run,
                std::byte* panel) {
  const std::int64_t stored = (cols + run - 1) / run * run;
  if (count < kPanelRows || stored != cols) {
    std::memset(panel, 0, static_cast<std::size_t>(stored * kPanelRows) * kSize);
  }
  constexpr auto kStep = static_cast<std::int64_t>(kSize);
  for (std::int64_t row = 0; row < count; ++row) {
    const std::byte* from = rows + row * cols * kStep;
    for (std::int64_t k = 0; k < cols; ++k) {
      const std::int64_t at = (k / run * kPanelRows + row) * run + k % run;
      std::memcpy(panel + at * kStep, from + k * kStep, kSize);
    }
  }
}

}  // namespace

void pack_f32_panel(const float* rows, std::int64_t count, std::int64_t cols, std::byte* panel) {
  interleave<4>(reinterpret_cast<const std::byte*>(rows), count, cols, 1, panel);
}

void pack_panel(Dtype dtype, const std::byte* rows, std::int64_t count, std::int64_t cols,
                std::byte* panel) {
  switch (dtype) {
    case Dtype::f32:
      return interleave<4>(rows, count, cols, 1, panel);
    case Dtype::f16:
      return interleave<2>(rows, count, cols, 1, panel);
    case Dtype::bf16:
      return interleave<2>(rows, count, cols, 2, panel);
    default:
      return pack_quantized(dtype, rows, count, cols, panel);
  }
}

void unpack_panel_row(Dtype dtype, const std::byte* panel, std::int64_t row, std::int64_t cols,
                      float* out) {
  if (is_quantized(dtype)) {
    return unpack_quantized(dtype, panel, static_cast<int>(row), cols, out);
  }
  for (std::int64_t k = 0; k < cols; ++k) {
    if (dtype == Dtype::f32) {
      std::memcpy(out + k, panel + (k * kPanelRows + row) * 4, 4);
    } else if (dtype == Dtype::f16) {
      out[k] = f16(panel + (k * kPanelRows + row) * 2);
    } else {
      std::uint16_t bits;
      std::memcpy(&bits, panel + ((k / 2 * kPanelRows + row) * 2 + k % 2) * 2, 2);
      out[k] = bf16_to_f32(bits);
    }
  }
}

}  // namespace sedpa::cpu
