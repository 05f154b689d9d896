#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sedpa {

class GgufFile;
struct TokenizerSpec;  // what the three file formats have in common: tokenizer/spec.h

/// Text to token ids and back, as the model's own file says.
///
/// Two families are known: byte-level BPE (a published regular expression cuts the text into words,
/// merges of a ranked list join the bytes of each) and SentencePiece BPE (spaces are "▁", pieces
/// join by score or by rank, characters outside the vocabulary fall back to byte tokens).
/// A Tokenizer never changes after loading, is cheap to copy and may be used by many threads.
class Tokenizer {
 public:
  /// From the tokenizer.ggml.* metadata of a model, or of a file that holds only a vocabulary.
  static Tokenizer from_gguf(const GgufFile& file);

  /// From tokenizer.json, else tokenizer.model, with tokenizer_config.json,
  /// special_tokens_map.json, generation_config.json and chat_template.jinja where they exist.
  static Tokenizer from_huggingface(const std::string& directory);

  /// The texts of those files; an empty view is an absent file.
  struct HuggingfaceFiles {
    std::string_view tokenizer_json = {};
    std::string_view tokenizer_model = {};
    std::string_view tokenizer_config_json = {};
    std::string_view special_tokens_map_json = {};
    std::string_view generation_config_json = {};
    std::string_view chat_template = {};
  };
  /// As from_huggingface, from memory; `name` stands before the file's name in errors.
  static Tokenizer from_memory(const HuggingfaceFiles& files, const std::string& name);

  /// Ids of `text`. `add_special` puts the begin and end tokens where the file asks for them;
  /// `parse_special` reads control tokens such as "<|im_start|>" out of the text (tokens that the
  /// file calls user-defined are always read). Bytes that are not UTF-8 are kept byte for byte
  /// where the vocabulary has tokens for them. Throws when the text cannot be split, never for
  /// what it contains.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text, bool add_special,
                                                 bool parse_special) const;

  /// The bytes of `ids`, exactly: the inverse of encode. Control tokens give nothing, or their
  /// text when `render_special`. Where encode puts a space before a text (SentencePiece), decode
  /// takes one space away at the same places: at the start and after each special token.
  /// Throws for an id outside the vocabulary.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids,
                                   bool render_special = false) const;

  /// The bytes of one token, its leading space kept; a control token gives its text.
  [[nodiscard]] std::string piece(std::int32_t id) const;

  /// Whether decode leaves the token out: control and unknown tokens.
  [[nodiscard]] bool is_control(std::int32_t id) const;

  /// The id of the token with exactly this text in the file, or -1.
  [[nodiscard]] std::int32_t find(std::string_view text) const;

  [[nodiscard]] std::int32_t vocab_size() const;
  /// -1 when the file has none.
  [[nodiscard]] std::int32_t bos() const;
  [[nodiscard]] std::int32_t eos() const;
  /// Every token after which generation stops, ascending: end of sequence, turn or message.
  [[nodiscard]] const std::vector<std::int32_t>& end_tokens() const;
  [[nodiscard]] bool is_end(std::int32_t id) const;
  [[nodiscard]] bool add_bos() const;
  [[nodiscard]] bool add_eos() const;
  /// The file's Jinja chat template, as it stands; empty when it has none.
  [[nodiscard]] const std::string& chat_template() const;
  /// 16 hexadecimal digits that tell one vocabulary (tokens, kinds, merges) from another.
  [[nodiscard]] const std::string& fingerprint() const;

  struct Impl;

 private:
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  static Tokenizer build(TokenizerSpec spec);
  friend class StreamDecoder;

  std::shared_ptr<const Impl> impl_;
};

/// Tokens to text as they come, for a screen: a token that ends inside a UTF-8 character is held
/// back until the character is whole. What push and finish give, joined, is exactly decode's bytes;
/// bytes that turn out not to be UTF-8 are passed on as they are.
class StreamDecoder {
 public:
  /// `at_start`: the ids are a text from its beginning, so that SentencePiece's first space is
  /// taken away. False (the default) for what a model appends to a prompt.
  explicit StreamDecoder(Tokenizer tokenizer, bool at_start = false, bool render_special = false);

  /// The bytes that are certain after this token; throws for an id outside the vocabulary.
  std::string push(std::int32_t id);
  /// What was held back. The decoder is then as new, but not at a start.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  std::string held_;
  bool at_start_;
  bool render_special_;
};

}  // namespace sedpa
