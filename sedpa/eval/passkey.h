#pragma once
#include <cstdint>
#include <string>

#include "sedpa/eval/needle.h"
#include "sedpa/identify/filler_text.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

/// A number of five digits in ordinary text, after the passkey task of Mohtashami and Jaggi
/// (arXiv 2305.16300, section 4.2). A case's text and number depend on the seed and the case alone,
/// so that runs with other settings get the same questions.
class PasskeyTask final : public NeedleTask {
 public:
  /// Both must outlive it.
  PasskeyTask(const Tokenizer& tokenizer, const FillerText& filler, std::uint64_t seed)
      : tokenizer_(tokenizer), filler_(filler), seed_(seed) {}

  [[nodiscard]] NeedlePrompt prompt(const NeedleCase& test) const override;
  /// 1 when the first run of digits in the answer is the number, else 0.
  [[nodiscard]] double score(const std::string& expected, const std::string& answer) const override;
  [[nodiscard]] std::int64_t answer_tokens() const override;

 private:
  const Tokenizer& tokenizer_;
  const FillerText& filler_;
  std::uint64_t seed_;
};

/// Whether the first run of digits in the answer is the key.
[[nodiscard]] bool answers(const std::string& text, const std::string& key);

}  // namespace sedpa
