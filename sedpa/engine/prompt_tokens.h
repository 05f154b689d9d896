#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

/// Ids of a prompt from its beginning: what the file asks for is put in front, special tokens are
/// read. An end token behind a prompt would be the end of it, so there is none.
[[nodiscard]] std::vector<std::int32_t> encode_prompt(const Tokenizer& tokenizer,
                                                      std::string_view text);

/// Ids of a text that follows other text: as Tokenizer::encode without special tokens put in, but
/// without the space that SentencePiece vocabularies put before a text.
[[nodiscard]] std::vector<std::int32_t> encode_continuation(const Tokenizer& tokenizer,
                                                            std::string_view text);

/// Text to tokens as it comes, without ever holding all of it: what push and finish give, joined,
/// is encode_prompt's.
///
/// A text may be cut where a word ends and white space begins, if the cut does not show: the two
/// sides alone give the tokens that they give together, both as long as `seam`, which is longer
/// than any word or special token that could reach across. A text without such a place is held
/// until there is one.
class StreamEncoder {
 public:
  static constexpr std::size_t kPiece = std::size_t{1} << 16;  // bytes
  static constexpr std::size_t kMostHeld = std::size_t{1} << 24;

  /// Tokens are given out when `piece` bytes have come together.
  explicit StreamEncoder(Tokenizer tokenizer, std::size_t piece = kPiece);

  /// Ids that are certain, whatever follows. Throws Error when kMostHeld bytes have no place to
  /// cut.
  std::vector<std::int32_t> push(std::string_view text);
  /// Ids of what was held back: the text ends here.
  std::vector<std::int32_t> finish();

 private:
  [[nodiscard]] std::size_t find_cut() const;
  [[nodiscard]] bool seamless(std::size_t cut) const;
  std::vector<std::int32_t> take(std::size_t bytes);

  Tokenizer tokenizer_;
  std::size_t piece_;
  std::size_t seam_;
  std::size_t wanted_;  // bytes to hold before the next search for a cut
  std::string held_;
  bool at_start_ = true;
};

}  // namespace sedpa
