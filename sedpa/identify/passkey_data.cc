#include "sedpa/identify/passkey_data.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <span>

#include "sedpa/core/fail.h"
#include "sedpa/format/mapped_file.h"

namespace sedpa {
namespace {

// How far from the wanted place a paragraph, then a sentence, is looked for.
constexpr std::int64_t kNear = 128;  // tokens

constexpr std::array kWords = {
    "apple",  "river",   "stone",   "candle",  "window", "garden",  "silver", "orange",  "planet",
    "bridge", "forest",  "button",  "mirror",  "basket", "pencil",  "market", "ladder",  "winter",
    "summer", "copper",  "velvet",  "thunder", "island", "harbor",  "saddle", "pepper",  "carpet",
    "marble", "feather", "lantern", "anchor",  "walnut", "tiger",   "eagle",  "rabbit",  "salmon",
    "violin", "trumpet", "hammer",  "needle",  "cotton", "butter",  "honey",  "cherry",  "lemon",
    "maple",  "desert",  "valley",  "canyon",  "meadow", "castle",  "tower",  "cellar",  "attic",
    "barrel", "bottle",  "kettle",  "spoon",   "ribbon", "jacket",  "helmet", "shield",  "arrow",
    "rocket", "comet",   "shadow",  "crystal", "amber",  "coral",   "ivory",  "pearl",   "ruby",
    "wagon",  "engine",  "wheel",   "paddle",  "canoe",  "tunnel",  "ticket", "parcel",  "letter",
    "ink",    "paper",   "chalk",   "mask",    "piano",  "drum",    "bell",   "clock",   "compass",
    "magnet", "radio",   "camera",  "bucket",  "broom",  "blanket", "pillow", "curtain", "chair",
    "desk"};

constexpr std::array kOwners = {"Alice",  "Boris", "Clara", "David", "Emma",  "Felix", "Grace",
                                "Henry",  "Irene", "Jacob", "Karen", "Louis", "Maria", "Nikita",
                                "Olivia", "Peter", "Quinn", "Rosa",  "Simon", "Teresa"};

constexpr std::string_view kDocumentIntro =
    "Here is a part of a long book. Somewhere in it, secrets are told. Remember them: you will be "
    "asked for them at the end.\n\n";
constexpr std::string_view kDocumentEnd = "\n\nThe part of the book ends here.\n";

constexpr std::string_view kQuestionIntro =
    "Somewhere in the text below there is a pass key. Find it and remember it: you will be asked "
    "for it.\n\n";
constexpr std::string_view kQuestion = "\n\nWhat is the pass key? The pass key is";

using Tokens = std::vector<std::int32_t>;

Tokens encode(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, false, false);
}

void append(Tokens& tokens, std::span<const std::int32_t> more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

// The prompt's first tokens: the begin token where the model has one, and the introduction.
Tokens encode_intro(const Tokenizer& tokenizer, std::string_view text) {
  Tokens tokens;
  if (tokenizer.add_bos()) tokens.push_back(tokenizer.bos());
  append(tokens, encode(tokenizer, text));
  return tokens;
}

// A text's tokens, and which of them hold the key in it.
struct MarkedText {
  Tokens tokens;
  std::int64_t key = 0;        // index of the key's first token
  std::int64_t key_count = 0;  // tokens
};

MarkedText encode_marked(const Tokenizer& tokenizer, std::string_view before, std::string_view key,
                         std::string_view after) {
  MarkedText marked{.tokens = encode(tokenizer, fmt::format("{}{}{}", before, key, after)),
                    .key = 0};
  std::int64_t bytes = 0;
  for (const std::int32_t id : marked.tokens)
    bytes += static_cast<std::int64_t>(tokenizer.piece(id).size());
  // SentencePiece puts a space before the text.
  const std::int64_t extra =
      bytes - static_cast<std::int64_t>(before.size() + key.size() + after.size());
  const std::int64_t begin = extra + static_cast<std::int64_t>(before.size());
  const std::int64_t end = begin + static_cast<std::int64_t>(key.size());
  std::int64_t at = 0;
  for (std::size_t i = 0; i < marked.tokens.size(); ++i) {
    const std::int64_t next =
        at + static_cast<std::int64_t>(tokenizer.piece(marked.tokens[i]).size());
    if (next > begin && at < end) {
      if (marked.key_count == 0) marked.key = static_cast<std::int64_t>(i);
      ++marked.key_count;
    }
    at = next;
  }
  return marked;
}

template <class T>
void shuffle(std::vector<T>& items, Random& random) {
  for (std::size_t i = items.size(); i > 1; --i) {
    std::swap(items[i - 1],
              items[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
  }
}

std::string random_words(int count, Random& random) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    if (i > 0) text += ' ';
    text += kWords[static_cast<std::size_t>(random.below(std::ssize(kWords)))];
  }
  return text;
}

std::int64_t checked_filler(std::int64_t tokens, std::int64_t needed) {
  // Some text must stand between the keys, or nothing is hidden.
  const std::int64_t least = needed + needed / 4 + 16;
  if (tokens < least) {
    fail(
        "prompts of {} tokens are too short for the keys and questions in them, expected at "
        "least {}",
        tokens, least);
  }
  return tokens - needed;
}

}  // namespace

FillerText FillerText::read(const Tokenizer& tokenizer, const std::string& path) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
      if (entry.is_regular_file(error)) files.push_back(entry.path().string());
    }
    std::sort(files.begin(), files.end());
    if (files.empty()) fail("{}: no text files in this directory", path);
  } else {
    files.push_back(path);
  }
  std::string text;
  for (const std::string& file : files) {
    if (text.size() >= kMaxBytes) break;
    const MappedFile mapped = MappedFile::open(file);
    const std::span<const std::byte> bytes = mapped.bytes();
    const std::size_t count = std::min(bytes.size(), kMaxBytes - text.size());
    text.append(reinterpret_cast<const char*>(bytes.data()), count);
    if (!text.ends_with("\n\n")) text += "\n\n";
  }
  return {tokenizer, text, path};
}

FillerText::FillerText(const Tokenizer& tokenizer, std::string_view text, std::string name)
    : name_(std::move(name)) {
  tokens_ = encode(tokenizer, text.substr(0, kMaxBytes));
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

PasskeyPrompt make_passkey_prompt(const Tokenizer& tokenizer, const FillerText& filler,
                                  const PasskeyPromptOptions& options, Random& random) {
  if (options.keys < 1 || options.keys > std::ssize(kOwners)) {
    fail("{} keys in a prompt, expected 1 to {}", options.keys, kOwners.size());
  }
  if (options.words < 1 || options.words > 1000) {
    fail("{} words in a key, expected 1 to 1000", options.words);
  }
  std::vector<std::string> owners(kOwners.begin(), kOwners.end());
  shuffle(owners, random);
  owners.resize(static_cast<std::size_t>(options.keys));

  // Told and answered in the same words, so that the key is made of the same tokens.
  struct Secret {
    std::string words;
    MarkedText told;
    MarkedText answer;
    std::int64_t place = 0;  // in the filler
    std::int64_t told_at = 0;
  };
  std::vector<Secret> secrets;
  const Tokens intro = encode_intro(tokenizer, kDocumentIntro);
  const Tokens end = encode(tokenizer, kDocumentEnd);
  std::int64_t needed = std::ssize(intro) + std::ssize(end);
  for (const std::string& owner : owners) {
    Secret secret{.words = random_words(options.words, random), .told = {}, .answer = {}};
    const std::string sentence = fmt::format("The secret of {} is: ", owner);
    secret.told = encode_marked(tokenizer, "\n\nRemember this. " + sentence, secret.words, ".\n\n");
    secret.answer =
        encode_marked(tokenizer, fmt::format("\nWhat is the secret of {}? {}", owner, sentence),
                      secret.words, ".\n");
    needed += std::ssize(secret.told.tokens) + std::ssize(secret.answer.tokens);
    secrets.push_back(std::move(secret));
  }
  const std::int64_t filler_count = checked_filler(options.tokens, needed);
  const std::int64_t start = filler.random_start(filler_count, random);
  for (Secret& secret : secrets) {
    secret.place =
        filler.nearest_break(start + random.below(filler_count + 1), start, start + filler_count);
  }
  std::stable_sort(secrets.begin(), secrets.end(),
                   [](const Secret& a, const Secret& b) { return a.place < b.place; });

  PasskeyPrompt prompt;
  prompt.tokens = intro;
  std::int64_t at = start;
  for (Secret& secret : secrets) {
    append(prompt.tokens, filler.tokens(at, secret.place - at));
    at = secret.place;
    secret.told_at = std::ssize(prompt.tokens) + secret.told.key;
    append(prompt.tokens, secret.told.tokens);
  }
  append(prompt.tokens, filler.tokens(at, start + filler_count - at));
  append(prompt.tokens, end);
  prompt.questions = std::ssize(prompt.tokens);
  shuffle(secrets, random);
  for (const Secret& secret : secrets) {
    prompt.keys.push_back({.text = secret.words,
                           .told = secret.told_at,
                           .answer = std::ssize(prompt.tokens) + secret.answer.key,
                           .count = std::min(secret.told.key_count, secret.answer.key_count)});
    append(prompt.tokens, secret.answer.tokens);
  }
  return prompt;
}

PasskeyQuestion make_passkey_question(const Tokenizer& tokenizer, const FillerText& filler,
                                      const PasskeyQuestionOptions& options, Random& random) {
  if (!(options.depth >= 0 && options.depth <= 1)) {
    fail("depth is {}, expected a number from 0 to 1", options.depth);
  }
  if (options.digits < 1 || options.digits > 18) {
    fail("a pass key of {} digits, expected 1 to 18", options.digits);
  }
  PasskeyQuestion question;
  for (int i = 0; i < options.digits; ++i) {
    question.key += static_cast<char>('0' + (i == 0 ? 1 + random.below(9) : random.below(10)));
  }
  const Tokens intro = encode_intro(tokenizer, kQuestionIntro);
  const Tokens told =
      encode(tokenizer, fmt::format("\n\nThe pass key is {}. Remember it. {} is the pass key.\n\n",
                                    question.key, question.key));
  const Tokens ask = encode(tokenizer, kQuestion);
  const std::int64_t filler_count =
      checked_filler(options.tokens, std::ssize(intro) + std::ssize(told) + std::ssize(ask));
  const std::int64_t start = filler.random_start(filler_count, random);
  const auto wanted = start + static_cast<std::int64_t>(
                                  std::llround(options.depth * static_cast<double>(filler_count)));
  const std::int64_t place = filler.nearest_break(wanted, start, start + filler_count);

  question.tokens = intro;
  append(question.tokens, filler.tokens(start, place - start));
  question.told = std::ssize(question.tokens);
  append(question.tokens, told);
  append(question.tokens, filler.tokens(place, start + filler_count - place));
  append(question.tokens, ask);
  return question;
}

}  // namespace sedpa
