#pragma once
// The one address rule of the KV cache: integers and plain structs, usable on host and device.
//
// A head class has one arena. In it, layer after layer, stand that layer's keys and then its
// values:
//   keys   [heads of this class in this layer, capacity, key row]
//   values [heads of this class in this layer, capacity, value row]
// A row is one head vector of one token. f32, f16 and bf16 rows are plain numbers; q8 and q4 rows
// are their f16 scales, one for 32 numbers (the last block may be shorter), then the codes: int8,
// or two 4-bit codes (value + 8) a byte, number 2i in the low half of byte i. Every row size is
// even; rows of a head are contiguous. Key rows and value rows may have different numbers, and they
// may differ from layer to layer and class to class (thin heads).
#include <cstddef>
#include <cstdint>

#include "sedpa/attention/head_plan.h"
#include "sedpa/core/dtype.h"

namespace sedpa {

inline constexpr std::int64_t kKvBlock = 32;  // numbers that share one scale in q8 and q4 rows

/// Bytes of one stored head vector of `dim` numbers; dim is even.
constexpr std::int64_t kv_row_bytes(KvDtype dtype, std::int64_t dim) {
  const std::int64_t scales = 2 * ((dim + kKvBlock - 1) / kKvBlock);
  switch (dtype) {
    case KvDtype::f32:
      return 4 * dim;
    case KvDtype::f16:
    case KvDtype::bf16:
      return 2 * dim;
    case KvDtype::q8:
      return scales + dim;
    case KvDtype::q4:
      return scales + dim / 2;
  }
  return 0;
}

/// How many numbers the keys and the values of a KV head have: head_dim both, but for thin heads.
struct HeadWidths {
  std::int32_t key = 0;
  std::int32_t value = 0;

  friend bool operator==(const HeadWidths&, const HeadWidths&) = default;
};

/// One class of one layer, as kernels see it. Its rows are as wide as its widest head; a narrower
/// head's rows end in zeros.
struct KvBlock {
  std::byte* keys = nullptr;    // [heads, capacity, key_row_bytes]
  std::byte* values = nullptr;  // [heads, capacity, value_row_bytes]
  std::int32_t heads = 0;
  std::int64_t capacity = 0;   // slots of each head
  std::int32_t key_dim = 0;    // numbers of a key row
  std::int32_t value_dim = 0;  // numbers of a value row
  std::int64_t key_row_bytes = 0;
  std::int64_t value_row_bytes = 0;

  [[nodiscard]] std::byte* key(std::int64_t head, std::int64_t slot) const {
    return keys + (head * capacity + slot) * key_row_bytes;
  }
  [[nodiscard]] std::byte* value(std::int64_t head, std::int64_t slot) const {
    return values + (head * capacity + slot) * value_row_bytes;
  }
};

/// One layer of the cache, both classes.
struct KvLayer {
  KvBlock blocks[kHeadClasses];
  const LayerHeads* heads = nullptr;  // which KV head of the model is which head of a block
};

}  // namespace sedpa
