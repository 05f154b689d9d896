#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sedpa {

/// What a token is, as SentencePiece and GGUF number the kinds.
enum class TokenKind : std::uint8_t {
  normal = 1,
  unknown = 2,
  control = 3,       ///< read out of a text only when asked to; decode leaves it out
  user_defined = 4,  ///< always read out of a text, and text itself
  unused = 5,
  byte = 6,  ///< "<0x0A>": one byte of a character that has no token
};

/// The tokens of a file: texts as the file spells them, ids by text.
class Vocabulary {
 public:
  /// At most 2^24 tokens of 2^31 bytes together; `name` stands for the file in errors.
  explicit Vocabulary(std::string name) : name_(std::move(name)) {}

  /// The next id's token. Throws Error when the text is empty or there already.
  void add(std::string_view text, TokenKind kind);
  /// Room for `count` tokens, so that adding them never rehashes.
  void reserve(std::size_t count);

  [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(kinds_.size()); }
  [[nodiscard]] std::string_view text(std::int32_t id) const {
    const auto i = static_cast<std::size_t>(id);
    return std::string_view(bytes_).substr(begins_[i], begins_[i + 1] - begins_[i]);
  }
  [[nodiscard]] TokenKind kind(std::int32_t id) const {
    return kinds_[static_cast<std::size_t>(id)];
  }
  void set_kind(std::int32_t id, TokenKind kind) { kinds_[static_cast<std::size_t>(id)] = kind; }
  /// -1 when no token has exactly this text.
  [[nodiscard]] std::int32_t find(std::string_view text) const;
  /// Bytes of the longest text.
  [[nodiscard]] std::size_t longest() const { return longest_; }
  [[nodiscard]] bool contains(std::int64_t id) const { return id >= 0 && id < size(); }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  void rehash(std::size_t slots);
  [[nodiscard]] std::size_t slot_of(std::string_view text) const;

  std::string name_;
  std::string bytes_;                        // the texts, end to end
  std::vector<std::uint32_t> begins_ = {0};  // [size + 1]
  std::vector<TokenKind> kinds_;             // [size]
  std::vector<std::int32_t> slots_;          // [power of two] ids, -1 where empty
  std::size_t longest_ = 0;
};

}  // namespace sedpa
