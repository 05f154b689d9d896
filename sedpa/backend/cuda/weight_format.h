#pragma once
// How matrices lie in the device's memory. Plain arithmetic, shared by the host code that repacks
// rows and the kernels that read them.
//
// A band's rows lie one after the other; a row takes a multiple of 16 bytes, and unused bytes are
// zero. Plain types are their numbers. A quantised row is planar, in chunks of 32 columns, each
// plane 16-byte aligned, so that neighbouring threads, which own neighbouring chunks, read
// neighbouring bytes and no byte is read twice:
//   codes    nibbles: [chunks][16 bytes]; byte k holds column k in its low and 16 + k in its high
//            nibble (word v: columns 4 v .. 4 v + 3 and 16 + 4 v ..)
//            iq4_nl: word v holds columns 4 v .. in the four nibbles of its low half, 16 + 4 v ..
//            in those of its high half: each half selects bytes of a table as it stands
//            q8_0: signed bytes, [2][chunks][16]: columns 0 .. 15 of all chunks, then 16 .. 31
//   high     bit 4 of each code: [chunks][4 bytes], bit 8 b + u belongs to column 4 u + b
//            q6_k, bits 4 and 5: [chunks][2][4 bytes], column 16 w + 4 u + b has bits 8 b + 2 u ..
//            of word w
//   scales   f16 d (q8_0, q4_0, q5_0, iq4_nl); f16 d, f16 m (q4_1, q5_1);
//            u8 scale, u8 minimum (q4_k, q5_k); i8 scale of columns 0 .. 15, of 16 .. 31 (q6_k)
//   supers   for each 256 columns: f16 d, f16 dmin (q4_k, q5_k); f16 d (q6_k)
// That is as many bytes as the file has (the 6-bit scales of q4_k and q5_k become bytes: 1/8 bit a
// number more), and at most 15 more for each plane of a row.
#include <cstddef>
#include <cstdint>

#include "sedpa/core/checked.h"
#include "sedpa/core/dtype.h"

namespace sedpa::cuda {

inline constexpr std::int64_t kChunk = 32;   // columns
inline constexpr std::int64_t kSuper = 256;  // columns that share a super-block's scales
inline constexpr std::int64_t kRowAlignment = 16;

constexpr bool is_quantized(Dtype dtype) {
  return dtype != Dtype::f32 && dtype != Dtype::f16 && dtype != Dtype::bf16;
}

/// Bytes of one number of a plain type.
constexpr std::int64_t number_bytes(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

/// Bytes of a chunk in each plane; supers: of a super-block.
struct ChunkBytes {
  int codes = 0;
  int high = 0;
  int scales = 0;
  int supers = 0;
};

constexpr ChunkBytes chunk_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::q8_0:
      return {32, 0, 2, 0};
    case Dtype::q4_0:
    case Dtype::iq4_nl:
      return {16, 0, 2, 0};
    case Dtype::q4_1:
      return {16, 0, 4, 0};
    case Dtype::q5_0:
      return {16, 4, 2, 0};
    case Dtype::q5_1:
      return {16, 4, 4, 0};
    case Dtype::q4_k:
      return {16, 0, 2, 4};
    case Dtype::q5_k:
      return {16, 4, 2, 4};
    case Dtype::q6_k:
      return {16, 8, 2, 2};
    case Dtype::f32:
    case Dtype::f16:
    case Dtype::bf16:
      break;
  }
  return {};
}

/// Where the planes of a row begin, in bytes. Codes begin at 0.
struct RowLayout {
  std::int64_t high = 0;
  std::int64_t scales = 0;
  std::int64_t supers = 0;
  std::int64_t bytes = 0;  // of a row
};

/// cols is a multiple of the type's block size.
constexpr RowLayout row_layout(Dtype dtype, std::int64_t cols) {
  RowLayout layout;
  if (!is_quantized(dtype)) {
    layout.bytes = round_up(cols * number_bytes(dtype), kRowAlignment);
    return layout;
  }
  const ChunkBytes bytes = chunk_bytes(dtype);
  const std::int64_t chunks = cols / kChunk;
  layout.high = chunks * bytes.codes;
  layout.scales = layout.high + round_up(chunks * bytes.high, kRowAlignment);
  layout.supers = layout.scales + round_up(chunks * bytes.scales, kRowAlignment);
  layout.bytes = layout.supers + round_up(cols / kSuper * bytes.supers, kRowAlignment);
  return layout;
}

/// The values of iq4_nl's codes (ggml-common.h, kvalues_iq4nl).
inline constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

/// Whether rows of the file are already rows of this layout.
constexpr bool stored_as_is(Dtype dtype, std::int64_t cols) {
  return !is_quantized(dtype) && cols * number_bytes(dtype) % kRowAlignment == 0;
}

/// Repacks rows, row_bytes(dtype, cols) each and one after the other, into this layout. All of
/// `out`, row_layout(dtype, cols).bytes a row, is written.
void repack_rows(Dtype dtype, const std::byte* rows, std::int64_t count, std::int64_t cols,
                 std::byte* out);
/// The numbers of one row of this layout, as kernels read them. out [cols].
void unpack_row(Dtype dtype, const std::byte* row, std::int64_t cols, float* out);

}  // namespace sedpa::cuda
