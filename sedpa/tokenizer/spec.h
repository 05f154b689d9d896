#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sedpa/tokenizer/bpe.h"
#include "sedpa/tokenizer/normalizer.h"
#include "sedpa/tokenizer/pretokenizer.h"
#include "sedpa/tokenizer/special_tokens.h"
#include "sedpa/tokenizer/vocabulary.h"

namespace sedpa {

/// A tokenizer as data: what the readers of the three file formats hand over, and all that encode
/// and decode need. A stretch of text goes through it from top to bottom.
struct TokenizerSpec {
  explicit TokenizerSpec(std::string name) : vocabulary(std::move(name)) {}

  Vocabulary vocabulary;

  // 1. Tokens found in the raw text; those that only parse_special finds stand in the second list
  //    only, which holds all of them.
  std::vector<SpecialToken> raw_text_always;
  std::vector<SpecialToken> raw_text_all;
  // 2. The normaliser works on what lies between, and further tokens are found in its result.
  Normalizer normalizer;
  std::vector<SpecialToken> normalized_always;
  std::vector<SpecialToken> normalized_all;
  // 3. SentencePiece's space, as GGUF files have it: before the text, and after special tokens
  //    too; then spaces become visible.
  SpacePrefix prefix = SpacePrefix::never;
  bool metaspace = false;
  // 4. Words, 5. merges.
  Pretokenizer pretokenizer;
  Bpe bpe;

  /// Decode takes away the space that a normaliser or pre-tokenizer of tokenizer.json puts before a
  /// text, as `prefix` does for step 3.
  SpacePrefix decode_prefix = SpacePrefix::never;
  /// User-defined tokens are ordinary text in this: the space may stand inside the first, and none
  /// is put behind them.
  bool user_defined_is_text = false;

  std::int32_t bos = -1;
  std::int32_t eos = -1;
  bool add_bos = false;
  bool add_eos = false;
  std::vector<std::int32_t> end_tokens;  ///< beyond eos and those known by their texts
  std::string chat_template;
};

/// Texts by which the tokens that end a generation are known when they are control tokens,
/// whatever the file's metadata says.
[[nodiscard]] std::span<const std::string_view> end_texts();

}  // namespace sedpa
