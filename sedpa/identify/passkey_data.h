#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "sedpa/identify/filler_text.h"
#include "sedpa/identify/hidden_sentences.h"
#include "sedpa/identify/random.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

/// One hidden key: its tokens stand twice, where it is told and where it is answered.
struct HiddenKey {
  std::string text;
  std::int64_t told = 0;    // index of its first token in the document
  std::int64_t answer = 0;  // index of its first token in the answer
  std::int64_t count = 0;   // tokens, the same in both places
};

/// A document with hidden keys and, after it, questions with their answers.
struct PasskeyPrompt {
  std::vector<std::int32_t> tokens;
  std::int64_t questions = 0;   // index of the first token after the document
  std::vector<HiddenKey> keys;  // in the order of the questions
};

struct PasskeyPromptOptions {
  std::int64_t tokens = 8192;  // of the whole prompt, exactly
  int keys = 10;               // at most, 1 to 20
  int words = 16;              // of each key, at most
  HiddenKind hidden = HiddenKind::keys;
};

/// Hides keys of random words, or facts, at random depths of a random passage, asks for all of them
/// at the end in another order, and gives the answers. After DuoAttention's training data (Xiao et
/// al., arXiv 2410.10819, section 2.2). Where so many keys do not fit there are fewer of them, and
/// where not one of so many words does, it has half as many, and half of these, down to one. The
/// same tokenizer, text, options and state of `random` give the same prompt. Throws Error when
/// `tokens` leaves no room for a document, naming the least that does, or when the text is too
/// short.
[[nodiscard]] PasskeyPrompt make_passkey_prompt(const Tokenizer& tokenizer,
                                                const FillerText& filler,
                                                const PasskeyPromptOptions& options,
                                                Random& random);

/// The most tokens that the questions and answers of such a prompt have, whatever is drawn.
[[nodiscard]] std::int64_t most_answer_tokens(const Tokenizer& tokenizer, HiddenKind kind, int keys,
                                              int words);

/// A prompt of so many tokens has room for a key, whatever is drawn; perhaps for one of a single
/// word.
[[nodiscard]] std::int64_t least_prompt_tokens(const Tokenizer& tokenizer, HiddenKind kind);

/// A test of one key: a document and the question that a model is to continue.
struct PasskeyQuestion {
  std::vector<std::int32_t> tokens;
  std::string key;         // digits
  std::int64_t told = 0;   // index of the sentence that tells it
  std::int64_t asked = 0;  // index of the question's first token
};

struct PasskeyQuestionOptions {
  std::int64_t tokens = 8192;  // of the whole prompt, exactly
  double depth = 0.5;          // in [0, 1]: the share of the document that stands before the key
  int digits = 5;              // 1 to 18
};

/// As make_passkey_prompt, after the passkey task of Mohtashami and Jaggi (arXiv 2305.16300,
/// section 4.2) with ordinary text instead of repeated sentences. `passage` chooses the text and
/// `digits` the key, so that questions at several depths can be asked of one text.
[[nodiscard]] PasskeyQuestion make_passkey_question(const Tokenizer& tokenizer,
                                                    const FillerText& filler,
                                                    const PasskeyQuestionOptions& options,
                                                    Random& passage, Random& digits);

}  // namespace sedpa
