#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sedpa {

/// A token that is found in a text before the text is cut into words.
struct SpecialToken {
  std::string text;
  std::int32_t id = 0;
  bool strip_left = false;   ///< takes the white space before it along
  bool strip_right = false;  ///< and behind it
  bool whole_word = false;   ///< only where no letter, digit or _ touches it
};

/// A stretch of text (id < 0), or a token found in it.
struct Fragment {
  std::string_view text;
  std::int32_t id = -1;
};

/// Finds tokens in a text from left to right, the longest at each place.
class SpecialTokens {
 public:
  SpecialTokens() = default;
  explicit SpecialTokens(std::vector<SpecialToken> tokens);

  [[nodiscard]] bool empty() const { return tokens_.empty(); }
  /// Appends what `text` consists of. Cost: one step a byte, and log(tokens) a byte where a token's
  /// first byte stands.
  void split(std::string_view text, std::vector<Fragment>& out) const;

 private:
  [[nodiscard]] const SpecialToken* longest_at(std::string_view text, std::size_t place) const;

  std::vector<SpecialToken> tokens_;                   // by text, ascending
  std::vector<bool> begins_ = std::vector<bool>(256);  // [256] some token has this first byte
};

}  // namespace sedpa
