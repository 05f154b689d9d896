#include "sedpa/identify/passkey_data.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

constexpr std::string_view kKeysIntro =
    "Here is a part of a long book. Somewhere in it, secrets are told. Remember them: you will be "
    "asked for them at the end.\n\n";
constexpr std::string_view kFactsIntro =
    "Here is a part of a long book. You will be asked at the end about things that it tells.\n\n";
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

std::string_view intro_of(HiddenKind kind) {
  return kind == HiddenKind::keys ? kKeysIntro : kFactsIntro;
}

MarkedText encode_answer(const Tokenizer& tokenizer, const HiddenSentence& sentence) {
  return encode_marked(tokenizer, sentence.question + sentence.telling, sentence.words, ".\n");
}

// Told and answered in the same words, so that what is asked for is made of the same tokens.
struct Secret {
  std::string words;
  MarkedText told;
  MarkedText answer;
  std::int64_t place = 0;  // in the filler
  std::int64_t told_at = 0;
};

std::vector<Secret> encode_secrets(const Tokenizer& tokenizer,
                                   std::vector<HiddenSentence> sentences) {
  std::vector<Secret> secrets;
  for (HiddenSentence& sentence : sentences) {
    MarkedText told = encode_marked(tokenizer, "\n\n" + sentence.remark + sentence.telling,
                                    sentence.words, ".\n\n");
    MarkedText answer = encode_answer(tokenizer, sentence);
    secrets.push_back(
        {.words = std::move(sentence.words), .told = std::move(told), .answer = std::move(answer)});
  }
  return secrets;
}

}  // namespace

std::int64_t most_answer_tokens(const Tokenizer& tokenizer, HiddenKind kind, int keys, int words) {
  const auto size = [&](const std::string& text) { return std::ssize(encode(tokenizer, text)); };
  const HiddenSentence longest = longest_sentence(kind, words, size);
  return keys * std::ssize(encode_answer(tokenizer, longest).tokens);
}

std::int64_t least_prompt_tokens(const Tokenizer& tokenizer, HiddenKind kind) {
  // A key is told in fewer words than it is answered.
  return least_tokens(std::ssize(encode_intro(tokenizer, intro_of(kind))) +
                      std::ssize(encode(tokenizer, kDocumentEnd)) +
                      2 * most_answer_tokens(tokenizer, kind, 1, 1));
}

PasskeyPrompt make_passkey_prompt(const Tokenizer& tokenizer, const FillerText& filler,
                                  const PasskeyPromptOptions& options, Random& random) {
  if (options.keys < 1 || options.keys > kMostHiddenSentences) {
    fail("{} keys in a prompt, expected 1 to {}", options.keys, kMostHiddenSentences);
  }
  if (options.words < 1 || options.words > 1000) {
    fail("{} words in a key, expected 1 to 1000", options.words);
  }
  const Tokens intro = encode_intro(tokenizer, intro_of(options.hidden));
  const Tokens end = encode(tokenizer, kDocumentEnd);
  const auto needed = [&](const std::vector<Secret>& secrets) {
    std::int64_t count = std::ssize(intro) + std::ssize(end);
    for (const Secret& secret : secrets) {
      count += std::ssize(secret.told.tokens) + std::ssize(secret.answer.tokens);
    }
    return count;
  };
  // Fewer keys where so many do not fit, then shorter ones.
  const HiddenSentences sentences(options.hidden, options.keys, random);
  int words = options.words;
  std::vector<Secret> secrets =
      encode_secrets(tokenizer, sentences.draw(options.keys, words, random));
  while (options.tokens < least_tokens(needed(secrets)) && (secrets.size() > 1 || words > 1)) {
    if (secrets.size() > 1) {
      secrets.pop_back();
    } else {
      words /= 2;
      secrets = encode_secrets(tokenizer, sentences.draw(1, words, random));
    }
  }
  const std::int64_t filler_tokens = filler_count(options.tokens, needed(secrets));
  const std::int64_t start = filler.random_start(filler_tokens, random);
  for (Secret& secret : secrets) {
    secret.place =
        filler.nearest_break(start + random.below(filler_tokens + 1), start, start + filler_tokens);
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
  append(prompt.tokens, filler.tokens(at, start + filler_tokens - at));
  append(prompt.tokens, end);
  prompt.questions = std::ssize(prompt.tokens);
  random.shuffle(secrets);
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
                                      const PasskeyQuestionOptions& options, Random& passage,
                                      Random& digits) {
  if (!(options.depth >= 0 && options.depth <= 1)) {
    fail("depth is {}, expected a number from 0 to 1", options.depth);
  }
  if (options.digits < 1 || options.digits > 18) {
    fail("a pass key of {} digits, expected 1 to 18", options.digits);
  }
  PasskeyQuestion question;
  for (int i = 0; i < options.digits; ++i) {
    question.key += static_cast<char>('0' + (i == 0 ? 1 + digits.below(9) : digits.below(10)));
  }
  const Tokens intro = encode_intro(tokenizer, kQuestionIntro);
  const Tokens told =
      encode(tokenizer, fmt::format("\n\nThe pass key is {}. Remember it. {} is the pass key.\n\n",
                                    question.key, question.key));
  const Tokens ask = encode(tokenizer, kQuestion);
  const std::int64_t filler_tokens =
      filler_count(options.tokens, std::ssize(intro) + std::ssize(told) + std::ssize(ask));
  const std::int64_t start = filler.random_start(filler_tokens, passage);
  const auto wanted = start + static_cast<std::int64_t>(
                                  std::llround(options.depth * static_cast<double>(filler_tokens)));
  const std::int64_t place = filler.nearest_break(wanted, start, start + filler_tokens);

  question.tokens = intro;
  append(question.tokens, filler.tokens(start, place - start));
  question.told = std::ssize(question.tokens);
  append(question.tokens, told);
  append(question.tokens, filler.tokens(place, start + filler_tokens - place));
  question.asked = std::ssize(question.tokens);
  append(question.tokens, ask);
  return question;
}

}  // namespace sedpa
