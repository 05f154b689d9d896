#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sedpa/identify/random.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

/// Ordinary text to hide keys in, as tokens, with the places where a sentence may be put in.
class FillerText {
 public:
  /// Reads a file, or every regular file of a directory in the order of their names, up to
  /// kMaxBytes in all. Throws Error when there is nothing to read.
  static FillerText read(const Tokenizer& tokenizer, const std::string& path);
  /// `name` stands in messages. Text beyond kMaxBytes is left out.
  FillerText(const Tokenizer& tokenizer, std::string_view text, std::string name);

  static constexpr std::size_t kMaxBytes = std::size_t{16} << 20;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(tokens_.size()); }
  /// Where `count` tokens can begin: at a random paragraph that leaves room for them. Throws Error
  /// when the text has fewer.
  [[nodiscard]] std::int64_t random_start(std::int64_t count, Random& random) const;
  [[nodiscard]] std::span<const std::int32_t> tokens(std::int64_t begin, std::int64_t count) const {
    return std::span(tokens_).subspan(static_cast<std::size_t>(begin),
                                      static_cast<std::size_t>(count));
  }
  /// The place in [begin, end] nearest to `wanted` where a paragraph starts; if none is near, where
  /// a sentence starts; if none is near either, `wanted` itself.
  [[nodiscard]] std::int64_t nearest_break(std::int64_t wanted, std::int64_t begin,
                                           std::int64_t end) const;

 private:
  enum class Break : std::uint8_t { none, sentence, paragraph };

  std::string name_;
  std::vector<std::int32_t> tokens_;
  std::vector<Break> breaks_;  // [tokens], what begins with the token
};

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
  int keys = 10;               // 1 to 20
  int words = 16;              // of each key
};

/// Hides keys of random words at random depths of a random passage, asks for all of them at the
/// end in another order, and gives the answers. After DuoAttention's training data (Xiao et al.,
/// arXiv 2410.10819, section 2.2). The same tokenizer, text, options and state of `random` give the
/// same prompt. Throws Error when `tokens` leaves no room for a document, naming the least that
/// does, or when the text is too short.
[[nodiscard]] PasskeyPrompt make_passkey_prompt(const Tokenizer& tokenizer,
                                                const FillerText& filler,
                                                const PasskeyPromptOptions& options,
                                                Random& random);

/// A test of one key: a document and the question that a model is to continue.
struct PasskeyQuestion {
  std::vector<std::int32_t> tokens;
  std::string key;        // digits
  std::int64_t told = 0;  // index of the sentence that tells it
};

struct PasskeyQuestionOptions {
  std::int64_t tokens = 8192;  // of the whole prompt, exactly
  double depth = 0.5;          // in [0, 1]: the share of the document that stands before the key
  int digits = 5;              // 1 to 18
};

/// As make_passkey_prompt, after the passkey task of Mohtashami and Jaggi (arXiv 2305.16300,
/// section 4.2) with ordinary text instead of repeated sentences.
[[nodiscard]] PasskeyQuestion make_passkey_question(const Tokenizer& tokenizer,
                                                    const FillerText& filler,
                                                    const PasskeyQuestionOptions& options,
                                                    Random& random);

}  // namespace sedpa
