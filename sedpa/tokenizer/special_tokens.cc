#include "sedpa/tokenizer/special_tokens.h"

#include <algorithm>
#include <utility>

#include "sedpa/tokenizer/normalizer.h"
#include "sedpa/tokenizer/regex.h"
#include "sedpa/tokenizer/utf8.h"

namespace sedpa {

namespace {

/// Whether the character at the end or the beginning of `text` is a letter, mark, digit or
/// connector: \w of Unicode's Technical Standard 18.
bool word_at(std::string_view text, bool end) {
  static const Regex kFirst(R"(\A[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}])", "word");
  std::size_t begin = 0;
  if (end) {
    begin = text.size() - std::min<std::size_t>(text.size(), 1);
    while (begin > 0 && text.size() - begin < 4 && (text[begin] & 0xC0) == 0x80) --begin;
  }
  const std::string_view rest = text.substr(begin);
  if (rest.empty()) return false;
  const std::size_t length = utf8_character(rest, 0);
  if (length == 0 || (end && length != rest.size())) return false;
  Regex::Scratch scratch;
  Regex::Match match;
  return kFirst.find(rest.substr(0, length), 0, scratch, match);
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  return !word_at(text.substr(0, begin), true) && !word_at(text.substr(end), false);
}

}  // namespace

SpecialTokens::SpecialTokens(std::vector<SpecialToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const SpecialToken& token) { return token.text.empty(); });
  std::sort(tokens_.begin(), tokens_.end(),
            [](const SpecialToken& a, const SpecialToken& b) { return a.text < b.text; });
  for (const SpecialToken& token : tokens_) {
    begins_[static_cast<unsigned char>(token.text.front())] = true;
  }
}

const SpecialToken* SpecialTokens::longest_at(std::string_view text, std::size_t place) const {
  // Those whose first `depth` bytes agree with the text are neighbours; a token that ends there is
  // the first of them.
  const SpecialToken* longest = nullptr;
  auto low = tokens_.begin();
  auto high = tokens_.end();
  for (std::size_t depth = 0; low != high; ++depth) {
    if (low->text.size() == depth) {
      if (!low->whole_word || stands_alone(text, place, place + depth)) longest = &*low;
      while (low != high && low->text.size() == depth) ++low;
    }
    if (place + depth >= text.size()) break;
    const auto wanted = static_cast<unsigned char>(text[place + depth]);
    const auto byte = [&](const SpecialToken& t) {
      return static_cast<unsigned char>(t.text[depth]);
    };
    low = std::partition_point(low, high, [&](const auto& t) { return byte(t) < wanted; });
    high = std::partition_point(low, high, [&](const auto& t) { return byte(t) == wanted; });
  }
  return longest;
}

void SpecialTokens::split(std::string_view text, std::vector<Fragment>& out) const {
  std::size_t done = 0;
  for (std::size_t i = 0; i < text.size() && !tokens_.empty();) {
    if (!begins_[static_cast<unsigned char>(text[i])]) {
      ++i;
      continue;
    }
    const SpecialToken* token = longest_at(text, i);
    if (token == nullptr) {
      ++i;
      continue;
    }
    std::string_view before = text.substr(done, i - done);
    if (token->strip_left) before.remove_suffix(white_space(before, true));
    if (!before.empty()) out.push_back({before, -1});
    std::size_t end = i + token->text.size();
    if (token->strip_right) end += white_space(text.substr(end), false);
    out.push_back({text.substr(i, end - i), token->id});
    i = done = end;
  }
  if (done < text.size()) out.push_back({text.substr(done), -1});
}

}  // namespace sedpa
