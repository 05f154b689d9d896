#include "sedpa/identify/filler_text.h"

#include "sedpa/core/fail.h"
#include "sedpa/core/hash.h"
#include "sedpa/format/text_files.h"

namespace sedpa {
namespace {

// How far from the wanted place a paragraph, then a sentence, is looked for.
constexpr std::int64_t kNear = 128;  // tokens

}  // namespace

FillerText FillerText::read(const Tokenizer& tokenizer, const std::string& path) {
  return {tokenizer, read_text_files(path, kMaxBytes), path};
}

FillerText::FillerText(const Tokenizer& tokenizer, std::string_view text, std::string name)
    : name_(std::move(name)), tokens_(tokenizer.encode(text.substr(0, kMaxBytes), false, false)) {
  breaks_.reserve(tokens_.size());
  std::string tail;  // the last bytes before the token
  for (const std::int32_t id : tokens_) {
    const std::string_view end =
        std::string_view(tail).substr(0, tail.find_last_not_of(" \n\"'") + 1);
    const bool sentence =
        end.ends_with('.') || end.ends_with('!') || end.ends_with('?') || end.ends_with("\u201d");
    const bool blank_line = tail.ends_with("\n\n") || tail.ends_with("\n\r\n");
    breaks_.push_back(blank_line ? Break::paragraph : sentence ? Break::sentence : Break::none);
    tail += tokenizer.piece(id);
    if (tail.size() > 16) tail.erase(0, tail.size() - 16);
  }
}

std::string FillerText::fingerprint() const {
  Hash hash;
  hash.add(std::as_bytes(std::span(tokens_)));
  return hash.digits();
}

std::int64_t FillerText::random_start(std::int64_t count, Random& random) const {
  if (count > size()) {
    fail("{}: the text has {} tokens, expected at least {} for prompts of this length", name_,
         size(), count);
  }
  const std::int64_t last = size() - count;
  std::int64_t start = random.below(last + 1);
  while (start > 0 && breaks_[static_cast<std::size_t>(start)] != Break::paragraph) --start;
  return start;
}

std::int64_t FillerText::nearest_break(std::int64_t wanted, std::int64_t begin,
                                       std::int64_t end) const {
  for (const Break least : {Break::paragraph, Break::sentence}) {
    for (std::int64_t distance = 0; distance <= kNear; ++distance) {
      for (const std::int64_t place : {wanted - distance, wanted + distance}) {
        if (place < begin || place > end || place >= size()) continue;
        if (breaks_[static_cast<std::size_t>(place)] >= least) return place;
      }
    }
  }
  return wanted;
}

std::int64_t least_tokens(std::int64_t needed) { return needed + needed / 4 + 16; }

std::int64_t filler_count(std::int64_t tokens, std::int64_t needed) {
  if (tokens < least_tokens(needed)) {
    fail(
        "prompts of {} tokens are too short for the keys and questions in them, expected at "
        "least {}",
        tokens, least_tokens(needed));
  }
  return tokens - needed;
}

}  // namespace sedpa
