#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "sedpa/identify/random.h"

namespace sedpa {

/// What documents hide: keys of random words, announced as secrets (DuoAttention's passkeys, Xiao
/// et al., arXiv 2410.10819, section 2.2), facts in plain sentences that nothing announces, or of
/// either some, by chance.
enum class HiddenKind : std::uint8_t { keys, facts, both };

[[nodiscard]] std::string name(HiddenKind kind);
/// Throws Error for any other name.
[[nodiscard]] HiddenKind parse_hidden_kind(const std::string& name);

/// A sentence that a document tells once and its end asks for: `telling` and `words` stand in both
/// places, `words` are what is to be found again.
struct HiddenSentence {
  std::string remark;    // before it, in the document alone
  std::string question;  // before it, at the end alone
  std::string telling;
  std::string words;
};

/// Of one document.
constexpr int kMostHiddenSentences = 20;

/// Sentences about different subjects, so that each question has one answer.
class HiddenSentences {
 public:
  /// `count` is 1 to kMostHiddenSentences. The same state of `random` gives the same subjects.
  HiddenSentences(HiddenKind kind, int count, Random& random);
  /// About the first `count` subjects, anew: keys of so many words, facts of so many at most.
  [[nodiscard]] std::vector<HiddenSentence> draw(int count, int words, Random& random) const;

 private:
  struct Subject {
    HiddenKind kind;  // keys or facts
    std::string name;
  };
  std::vector<Subject> subjects_;
};

/// The sentence with the longest question and answer that may be drawn, by the sizes of its parts.
[[nodiscard]] HiddenSentence longest_sentence(
    HiddenKind kind, int words, const std::function<std::int64_t(const std::string&)>& size);

}  // namespace sedpa
