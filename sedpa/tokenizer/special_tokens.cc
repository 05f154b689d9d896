#include "sedpa/tokenizer/special_tokens.h"

#include <algorithm>
#include <utility>

#include "sedpa/tokenizer/normalizer.h"

namespace sedpa {

namespace {

bool is_word(char c) {
  // Bytes beyond ASCII count as letters: nearly all of them are.
  return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c & 0x80) != 0;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  return (begin == 0 || !is_word(text[begin - 1])) && (end == text.size() || !is_word(text[end]));
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
