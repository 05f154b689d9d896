#include "sedpa/engine/prompt_tokens.h"

#include <algorithm>
#include <utility>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

constexpr std::size_t kMostTries = 32;  // places of one piece that are looked at closely

bool is_space(char c) { return c == ' ' || c == '\n'; }
bool is_white(char c) { return is_space(c) || (c >= '\t' && c <= '\r'); }
// Of a UTF-8 character that has begun before.
bool goes_on(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

std::size_t character_at_or_after(std::string_view text, std::size_t place) {
  while (place < text.size() && goes_on(text[place])) ++place;
  return place;
}

}  // namespace

std::vector<std::int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::int32_t> ids =
      tokenizer.encode(text, /*add_special=*/true, /*parse_special=*/true);
  if (tokenizer.add_eos() && !ids.empty() && ids.back() == tokenizer.eos()) ids.pop_back();
  return ids;
}

std::vector<std::int32_t> encode_continuation(const Tokenizer& tokenizer, std::string_view text) {
  const auto encode = [&](std::string_view what) {
    return tokenizer.encode(what, /*add_special=*/false, /*parse_special=*/true);
  };
  // SentencePiece puts its space before an anchor instead, which is then cut off again. Where the
  // anchor joins with the text (byte-level vocabularies have no such space) the text stands alone.
  const std::vector<std::int32_t> anchor = encode("\n");
  std::vector<std::int32_t> ids = encode(std::string("\n").append(text));
  if (anchor.empty() || ids.size() < anchor.size() ||
      !std::equal(anchor.begin(), anchor.end(), ids.begin())) {
    return encode(text);
  }
  ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(anchor.size()));
  return ids;
}

StreamEncoder::StreamEncoder(Tokenizer tokenizer, std::size_t piece)
    : tokenizer_(std::move(tokenizer)), piece_(piece), seam_(piece / 16), wanted_(piece) {}

std::vector<std::int32_t> StreamEncoder::push(std::string_view text) {
  held_ += text;
  if (held_.size() < wanted_) return {};
  const std::size_t cut = find_cut();
  if (cut > 0) {
    wanted_ = piece_;
    return take(cut);
  }
  if (held_.size() >= kMostHeld) {
    fail("{} bytes of text have no place where they can be cut, expected a space or line end",
         held_.size());
  }
  wanted_ = std::min(2 * held_.size(), kMostHeld);
  return {};
}

std::vector<std::int32_t> StreamEncoder::finish() {
  std::vector<std::int32_t> ids = take(held_.size());
  at_start_ = true;
  wanted_ = piece_;
  return ids;
}

std::vector<std::int32_t> StreamEncoder::take(std::size_t bytes) {
  const std::string_view text = std::string_view(held_).substr(0, bytes);
  std::vector<std::int32_t> ids = at_start_      ? encode_prompt(tokenizer_, text)
                                  : text.empty() ? std::vector<std::int32_t>()
                                                 : encode_continuation(tokenizer_, text);
  at_start_ = false;
  held_.erase(0, bytes);
  return ids;
}

// The last place in the second half that will do; 0: none.
std::size_t StreamEncoder::find_cut() const {
  std::size_t tries = 0;
  for (std::size_t cut = held_.size() - seam_; cut > held_.size() / 2 && tries < kMostTries;
       --cut) {
    const bool looks_well =
        is_space(held_[cut]) && !is_white(held_[cut - 1]) && !is_white(held_[cut + 1]);
    if (!looks_well) continue;
    ++tries;
    if (seamless(cut)) return cut;
  }
  return 0;
}

bool StreamEncoder::seamless(std::size_t cut) const {
  const std::string_view text = held_;
  const std::size_t begin = character_at_or_after(text, cut - std::min(cut, seam_));
  const std::size_t end = character_at_or_after(text, std::min(cut + seam_, text.size()));
  std::vector<std::int32_t> apart =
      encode_continuation(tokenizer_, text.substr(begin, cut - begin));
  const std::vector<std::int32_t> right =
      encode_continuation(tokenizer_, text.substr(cut, end - cut));
  apart.insert(apart.end(), right.begin(), right.end());
  return apart == encode_continuation(tokenizer_, text.substr(begin, end - begin));
}

}  // namespace sedpa
