#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "sedpa/tokenizer/regex.h"

namespace sedpa {

/// The canonical and compatibility forms of Unicode (Standard Annex 15).
enum class UnicodeForm : std::uint8_t { nfc, nfd, nfkc, nfkd };

/// A text before each stretch that is not empty.
struct PrependStep {
  std::string text;
};
struct ReplaceTextStep {
  std::string from;
  std::string to;
};
struct ReplacePatternStep {
  Regex from;
  std::string to;
};
/// White space taken away at either end.
struct StripStep {
  bool left = true;
  bool right = true;
};

using NormalizerStep =
    std::variant<UnicodeForm, PrependStep, ReplaceTextStep, ReplacePatternStep, StripStep>;

/// What tokenizer.json does to a text before it is cut. Bytes that are not UTF-8 pass unchanged.
class Normalizer {
 public:
  void add(NormalizerStep step) { steps_.push_back(std::move(step)); }
  [[nodiscard]] bool empty() const { return steps_.empty(); }
  [[nodiscard]] const std::vector<NormalizerStep>& steps() const { return steps_; }

  /// Throws Error when a pattern exceeds its limits.
  [[nodiscard]] std::string apply(std::string_view text) const;

 private:
  std::vector<NormalizerStep> steps_;
};

/// Bytes at the beginning (`at_end` false) or the end of `text` that are white space.
[[nodiscard]] std::size_t white_space(std::string_view text, bool at_end);

}  // namespace sedpa
