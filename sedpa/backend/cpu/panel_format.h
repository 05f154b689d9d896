#pragma once
// How matrices lie in the CPU's memory: panels of 16 rows (see panel.h for why). Plain arithmetic,
// shared by the host code that packs panels and the kernels that read them.
//
// Plain types: f32 [cols][16], f16 [cols][16], bf16 [cols rounded up to even / 2][16][2].
//
// Quantised types: blocks of `groups` groups of 32 columns. A block is
//   head    f16 [16] scale (q6_k), or f16 [16] scale and f16 [16] scale of the minimums (q4_k,
//   q5_k)
// and then for each group
//   scales  f16 [16] scale and, where the type has one, f16 [16] minimum;
//           u8 [16] scale and u8 [16] minimum (q4_k, q5_k); i8 [2][16] scales of the halves (q6_k)
//   codes   nibbles: 4 x [16 rows][4 bytes]; vector v holds columns 4 v .. 4 v + 3 in the low
//           nibbles and columns 16 + 4 v .. in the high ones
//           or bytes (q8_0): 8 x [16 rows][4]; value + 128, vector v holds columns 4 v ..
//   plane   bit 4 of each code: [16 rows][4 bytes], bit v of a byte belongs to columns 4 v ..
//           or bits 4 and 5 (q6_k): 2 x [16 rows][4 bytes], bits 2 (v mod 4) of vector v / 4
// The numbers are scale * (code - offset) + minimum (k types: - minimum; iq4_nl: a table's entry
// for the code). That is as many bytes as the file has for 16 rows (q4_k, q5_k: 1/8 bit a number
// more, because their 6-bit scales become bytes).
#include <cstddef>
#include <cstdint>
#include <span>

#include "sedpa/core/dtype.h"

namespace sedpa::cpu {

inline constexpr std::int64_t kPanelRows = 16;
inline constexpr std::int64_t kGroup = 32;     // columns that share a scale, of weights and inputs
inline constexpr std::size_t kAlignment = 64;  // bytes, of panels and of packed inputs
/// Panels that a kernel keeps near while tiles pass over them; work is handed out in these.
inline constexpr std::int64_t kPanelBlock = 4;
/// Pieces of work for each thread, so that one that is held up does not hold up all.
inline constexpr std::int64_t kPiecesPerThread = 12;

/// The parts of a quantised panel, in bytes.
struct PanelLayout {
  int groups = 1;  // of a block
  int head = 0;
  int scales = 0;
  int codes = 0;
  int plane = 0;

  [[nodiscard]] constexpr int group() const { return scales + codes + plane; }
  [[nodiscard]] constexpr int block() const { return head + groups * group(); }
};

constexpr bool is_quantized(Dtype dtype) {
  return dtype != Dtype::f32 && dtype != Dtype::f16 && dtype != Dtype::bf16;
}

constexpr PanelLayout panel_layout(Dtype dtype) {
  switch (dtype) {
    case Dtype::q8_0:
      return {.scales = 32, .codes = 512};
    case Dtype::q4_0:
    case Dtype::iq4_nl:
      return {.scales = 32, .codes = 256};
    case Dtype::q4_1:
      return {.scales = 64, .codes = 256};
    case Dtype::q5_0:
      return {.scales = 32, .codes = 256, .plane = 64};
    case Dtype::q5_1:
      return {.scales = 64, .codes = 256, .plane = 64};
    case Dtype::q4_k:
      return {.groups = 8, .head = 64, .scales = 32, .codes = 256};
    case Dtype::q5_k:
      return {.groups = 8, .head = 64, .scales = 32, .codes = 256, .plane = 64};
    case Dtype::q6_k:
      return {.groups = 8, .head = 32, .scales = 32, .codes = 256, .plane = 128};
    case Dtype::f32:
    case Dtype::f16:
    case Dtype::bf16:
      break;
  }
  return {};
}

/// Columns that a panel stores: bf16 pairs need an even number.
constexpr std::int64_t stored_cols(Dtype dtype, std::int64_t cols) {
  return dtype == Dtype::bf16 ? cols + cols % 2 : cols;
}

/// Bytes of one panel; cols is a multiple of the type's block size.
constexpr std::int64_t panel_bytes(Dtype dtype, std::int64_t cols) {
  if (dtype == Dtype::f32) return cols * kPanelRows * 4;
  if (!is_quantized(dtype)) return stored_cols(dtype, cols) * kPanelRows * 2;
  const PanelLayout layout = panel_layout(dtype);
  return cols / (layout.groups * kGroup) * layout.block();
}

/// The values of iq4_nl's codes, plus 128 (ggml-common.h, kvalues_iq4nl).
inline constexpr std::uint8_t kIq4Values[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                                129, 141, 153, 166, 181, 197, 217, 241};

/// Packs up to 16 rows, row_bytes(dtype, cols) each and one after the other, into one panel of the
/// same type; missing rows become zeros.
void pack_panel(Dtype dtype, const std::byte* rows, std::int64_t count, std::int64_t cols,
                std::byte* panel);
/// The same from decoded numbers [count, cols] into an f32 panel.
void pack_f32_panel(const float* rows, std::int64_t count, std::int64_t cols, std::byte* panel);
/// The numbers of row `row` (< 16) of a panel. out [cols].
void unpack_panel_row(Dtype dtype, const std::byte* panel, std::int64_t row, std::int64_t cols,
                      float* out);

}  // namespace sedpa::cpu
