#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "sedpa/eval/needle.h"
#include "sedpa/identify/filler_text.h"
#include "sedpa/tokenizer/chat_template.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

struct NiahOptions {
  int needles = 1;       // 1: the published sentence; 2 to 32: magic numbers of so many cities
  bool ask_all = false;  // ask for every number, not only for the one at the case's depth
  std::optional<ChatTemplate> chat = {};  // the prompt is a user's turn of it
  std::uint64_t seed = 1;
};

/// A needle in a haystack. One needle is the published test: Greg Kamradt's sentence and question
/// (github.com/gkamradt/LLMTest_NeedleInAHaystack, 2023), in the frame that Fu et al.
/// (arXiv 2402.10171) and DuoAttention (arXiv 2410.10819, section 3.2) put around them. Without a
/// chat template the prompt ends with the beginning of the answer, as DuoAttention's does. Its
/// frame begins with a ChatML token, whatever the model; this one does not.
///
/// More needles are a test of one key among several, after RULER's (Hsieh et al., arXiv 2404.06654,
/// section 3): each tells the magic number of another city. The one that is asked for stands at the
/// case's depth, the others at random depths that depend on length and sample alone.
class NiahTask final : public NeedleTask {
 public:
  /// Tokenizer and text must outlive it. Throws Error when there are too few or too many needles,
  /// or when the chat template does not keep the document apart from what stands around it.
  NiahTask(const Tokenizer& tokenizer, const FillerText& filler, NiahOptions options);

  [[nodiscard]] NeedlePrompt prompt(const NeedleCase& test) const override;
  /// One needle: the ROUGE-1 recall of the sentence's answer, as Wu et al. count retrieval
  /// (arXiv 2404.15574). Several: 1 when the first number in the answer is the right one, else 0.
  [[nodiscard]] double score(const std::string& expected, const std::string& answer) const override;
  [[nodiscard]] std::int64_t answer_tokens() const override;

  /// The published sentence: DuoAttention's evaluation takes the ROUGE-1 F-measure of the answer
  /// with all of it.
  static constexpr std::string_view kNeedle =
      "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny "
      "day.";

 private:
  struct Needle {
    std::vector<std::int32_t> tokens;
    double depth;
    NeedleQuestion question;
    std::int64_t place = 0;  // in the filler
  };

  [[nodiscard]] std::vector<Needle> needles(const NeedleCase& test) const;
  // What stands behind the document.
  [[nodiscard]] std::vector<std::int32_t> ask(std::string_view question,
                                              std::string_view answer_begin) const;

  const Tokenizer& tokenizer_;
  const FillerText& filler_;
  NiahOptions options_;
  std::vector<std::int32_t> head_;  // before the document
  std::string tail_;                // of the chat template, behind the question
};

}  // namespace sedpa
