#include "sedpa/tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "sedpa/core/fail.h"
#include "sedpa/format/printable.h"

namespace sedpa {

namespace {
constexpr std::size_t kMaxTokens = std::size_t{1} << 24;
constexpr std::size_t kMaxBytes = std::size_t{1} << 31;
}  // namespace

void Vocabulary::reserve(std::size_t count) {
  if (count > kMaxTokens) {
    fail("{}: {} tokens, expected at most {}", name_, count, kMaxTokens);
  }
  kinds_.reserve(count);
  begins_.reserve(count + 1);
  rehash(std::bit_ceil(2 * count + 2));
}

void Vocabulary::add(std::string_view text, TokenKind kind) {
  if (text.empty()) fail("{}: token {} is empty", name_, size());
  if (kinds_.size() >= kMaxTokens || text.size() > kMaxBytes - bytes_.size()) {
    fail("{}: a vocabulary of more than {} tokens or {} bytes", name_, kMaxTokens, kMaxBytes);
  }
  if (2 * (kinds_.size() + 1) > slots_.size()) {
    rehash(std::bit_ceil(std::max<std::size_t>(4 * kinds_.size(), 64)));
  }
  const std::size_t slot = slot_of(text);
  if (slots_[slot] >= 0) {
    fail("{}: token {} is a second {}, first seen as token {}", name_, size(), printable(text),
         slots_[slot]);
  }
  slots_[slot] = size();
  bytes_.append(text);
  begins_.push_back(static_cast<std::uint32_t>(bytes_.size()));
  kinds_.push_back(kind);
  longest_ = std::max(longest_, text.size());
}

std::int32_t Vocabulary::find(std::string_view text) const {
  if (slots_.empty() || text.size() > longest_) return -1;
  return slots_[slot_of(text)];
}

void Vocabulary::rehash(std::size_t slots) {
  slots_.assign(slots, -1);
  for (std::int32_t id = 0; id < size(); ++id) slots_[slot_of(text(id))] = id;
}

std::size_t Vocabulary::slot_of(std::string_view wanted) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = std::hash<std::string_view>{}(wanted)&mask;
  while (slots_[slot] >= 0 && text(slots_[slot]) != wanted) slot = (slot + 1) & mask;
  return slot;
}

}  // namespace sedpa
