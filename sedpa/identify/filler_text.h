#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sedpa/identify/random.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

/// Ordinary text to hide things in, as tokens, with the places where a sentence may be put in.
class FillerText {
 public:
  /// Reads text files, JSONL files or a directory of them (format/text_files.h), up to kMaxBytes in
  /// all. Throws Error when something cannot be read.
  static FillerText read(const Tokenizer& tokenizer, const std::string& path);
  /// `name` stands in messages. Text beyond kMaxBytes is left out.
  FillerText(const Tokenizer& tokenizer, std::string_view text, std::string name);

  static constexpr std::size_t kMaxBytes = std::size_t{16} << 20;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(tokens_.size()); }
  /// 16 hexadecimal digits over its tokens.
  [[nodiscard]] std::string fingerprint() const;
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

/// The shortest prompt that has enough filler to hide what is not filler in it, `needed` tokens.
[[nodiscard]] std::int64_t least_tokens(std::int64_t needed);
/// Tokens of filler in a prompt of `tokens`, of which `needed` are something else. Throws Error
/// when `tokens` is below least_tokens, naming it.
[[nodiscard]] std::int64_t filler_count(std::int64_t tokens, std::int64_t needed);

}  // namespace sedpa
