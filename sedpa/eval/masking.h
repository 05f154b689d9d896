#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "sedpa/engine/session.h"
#include "sedpa/format/attention_pattern.h"

namespace sedpa {

/// Query heads that say nothing: for each layer, ascending. [layers]
using MaskedHeads = std::vector<std::vector<std::int32_t>>;

/// From now on the outputs of these heads are zero before the output projection, in every pass of
/// the session: as if their columns of it were zero. Keys and values stay as they are. Empty: all
/// heads speak again. Throws Error when there is no such layer or head.
void mask_heads(Session& session, const MaskedHeads& masked);

/// The heads of a pattern in the order of their scores: query heads where the pattern has scores of
/// them, else KV heads by their gates, each with its whole group of query heads. Equal scores go by
/// layer and head.
class RankedHeads {
 public:
  /// `query_heads` of each layer, a multiple of the pattern's KV heads. `kv_heads` ranks KV heads
  /// even where there are scores of query heads. Throws Error when the pattern's query heads are
  /// not as many.
  RankedHeads(const AttentionPattern& pattern, std::int32_t query_heads, bool kv_heads);

  /// 16 hexadecimal digits over the order.
  [[nodiscard]] std::string fingerprint() const;
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(order_.size()); }
  /// Whether KV heads are ranked.
  [[nodiscard]] bool of_kv_heads() const { return kv_heads_; }
  /// The `count` heads, at most size(), with the highest scores, the lowest, or any.
  [[nodiscard]] MaskedHeads top(std::int64_t count) const;
  [[nodiscard]] MaskedHeads bottom(std::int64_t count) const;
  [[nodiscard]] MaskedHeads random(std::int64_t count, std::uint64_t seed) const;

 private:
  [[nodiscard]] MaskedHeads query_heads(std::vector<std::int32_t> heads) const;

  std::int32_t layers_ = 0;
  std::int32_t heads_ = 0;  // of each layer, in the unit that is ranked
  std::int32_t group_ = 1;  // query heads of one of them
  bool kv_heads_ = false;
  std::vector<std::int32_t> order_;  // [layers * heads], highest score first
};

}  // namespace sedpa
