#pragma once
#include <span>
#include <string>
#include <string_view>

namespace sedpa {

/// What a GGUF's `tokenizer.ggml.pre` stands for: the patterns of the model's own tokenizer.json,
/// applied one after the other, matches and gaps both becoming pieces.
struct PublishedPretokenizer {
  std::string_view name;
  std::span<const std::string_view> patterns;
  bool ignore_merges = false;  ///< a word that is a token stays whole
  bool add_bos = false;        ///< unless the file says otherwise
  bool metaspace = false;      ///< spaces become "▁", merges begin with characters, not bytes
};

/// Null when the name is not known.
[[nodiscard]] const PublishedPretokenizer* find_published_pretokenizer(std::string_view name);

/// The known names, separated by commas.
[[nodiscard]] std::string published_pretokenizer_names();

/// The pattern of GPT-2, which tokenizer.json's ByteLevel uses too.
[[nodiscard]] std::string_view gpt2_pattern();

}  // namespace sedpa
