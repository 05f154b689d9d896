#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "sedpa/tokenizer/regex.h"

namespace sedpa {

/// What becomes of the stretches that a pattern matches (Hugging Face tokenizers' names).
enum class SplitBehavior : std::uint8_t {
  removed,
  isolated,
  merged_with_previous,
  merged_with_next,
  contiguous,  ///< neighbouring matches join into one piece
};

/// Cuts pieces at the matches of a pattern. What lies between matches is a piece of its own;
/// `invert` swaps the roles of matches and gaps.
struct SplitStep {
  Regex regex;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;
};

/// Where a SentencePiece text gets the space that stands before its first word.
enum class SpacePrefix : std::uint8_t {
  never,
  first,   ///< at the text's beginning only
  always,  ///< before every stretch of text, after special tokens too
};

/// Spaces become "▁", with one before the text as `prefix` says unless it begins with one;
/// `split` begins a new piece at each.
struct MetaspaceStep {
  SpacePrefix prefix = SpacePrefix::always;
  bool split = true;
};

/// A space before each piece that does not begin with one.
struct PrefixSpaceStep {};

/// From here on pieces are spelt in GPT-2's byte alphabet; patterns that follow see the spelling.
struct SpellBytesStep {};

using PretokenizerStep = std::variant<SplitStep, MetaspaceStep, PrefixSpaceStep, SpellBytesStep>;

/// Cuts a text into the words that the merges work on. Bytes that are not UTF-8 are never shown to
/// a pattern: each run of them is a piece of its own.
class Pretokenizer {
 public:
  /// Views into the text given to split, or into texts that a step had to change.
  struct Pieces {
    std::vector<std::string_view> views;
    std::deque<std::string> owned;
    std::vector<std::string_view> next;  // room for the step at work
    Regex::Scratch scratch;
  };

  void add(PretokenizerStep step) { steps_.push_back(std::move(step)); }
  [[nodiscard]] bool empty() const { return steps_.empty(); }
  /// Steps that come after SpellBytesStep make pieces stay spelt.
  [[nodiscard]] bool spells() const;

  /// `at_start`: `text` is the beginning of what is encoded. Throws Error when a pattern exceeds
  /// its limits.
  void split(std::string_view text, bool at_start, Pieces& pieces) const;

 private:
  std::vector<PretokenizerStep> steps_;
};

}  // namespace sedpa
