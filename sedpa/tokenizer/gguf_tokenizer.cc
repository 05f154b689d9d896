#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "sedpa/core/fail.h"
#include "sedpa/format/gguf.h"
#include "sedpa/format/printable.h"
#include "sedpa/tokenizer/published_patterns.h"
#include "sedpa/tokenizer/spec.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

namespace {

constexpr std::string_view kModelKey = "tokenizer.ggml.model";
constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kKindsKey = "tokenizer.ggml.token_type";
constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";

void read_vocabulary(const GgufFile& file, Vocabulary& vocabulary) {
  const std::vector<std::string>& tokens = file.require_strings(kTokensKey);
  if (tokens.empty()) fail("{}: {} is empty", file.path(), kTokensKey);
  const std::vector<std::int64_t>* kinds = file.find_ints(kKindsKey);
  if (kinds != nullptr && kinds->size() != tokens.size()) {
    fail("{}: {} has {} entries, expected {}, one for each token", file.path(), kKindsKey,
         kinds->size(), tokens.size());
  }
  vocabulary.reserve(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    TokenKind kind = TokenKind::normal;
    if (kinds != nullptr && (*kinds)[i] != 0) {  // 0: undefined
      if ((*kinds)[i] < 1 || (*kinds)[i] > 6) {
        fail("{}: {}[{}] is {}, expected 0 to 6", file.path(), kKindsKey, i, (*kinds)[i]);
      }
      kind = static_cast<TokenKind>((*kinds)[i]);
    }
    if (tokens[i].empty()) {  // a hole in the ids: it has to have a name
      vocabulary.add("[EMPTY_" + std::to_string(i) + "]", TokenKind::unused);
    } else {
      vocabulary.add(tokens[i], kind);
    }
  }
}

void read_merges(const GgufFile& file, const Vocabulary& vocabulary, MergeTable& merges) {
  const std::vector<std::string>& lines = file.require_strings(kMergesKey);
  merges.reserve(lines.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string_view line = lines[i];
    const std::size_t space = line.find(' ', 1);
    if (line.empty() || space == std::string_view::npos || space + 1 == line.size()) {
      fail("{}: {}[{}] is {}, expected two tokens with a space between them", file.path(),
           kMergesKey, i, printable(line));
    }
    add_merge(merges, vocabulary, line.substr(0, space), line.substr(space + 1));
  }
}

void read_scores(const GgufFile& file, Bpe& bpe, const Vocabulary& vocabulary) {
  const std::vector<double>& scores = file.require_floats(kScoresKey);
  if (scores.size() != static_cast<std::size_t>(vocabulary.size())) {
    fail("{}: {} has {} entries, expected {}, one for each token", file.path(), kScoresKey,
         scores.size(), vocabulary.size());
  }
  bpe.scores.reserve(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (!std::isfinite(scores[i])) {
      fail("{}: {}[{}] is {}, expected a finite number", file.path(), kScoresKey, i, scores[i]);
    }
    bpe.scores.push_back(static_cast<float>(scores[i]));
  }
}

std::int32_t read_id(const GgufFile& file, const Vocabulary& vocabulary, std::string_view what,
                     std::int32_t otherwise) {
  const std::string key = "tokenizer.ggml." + std::string(what) + "_token_id";
  const std::optional<std::int64_t> id = file.find_int(key);
  if (!id) return vocabulary.contains(otherwise) ? otherwise : -1;
  if (*id == 0xFFFFFFFF || *id == -1) return -1;  // how some converters write "none"
  if (!vocabulary.contains(*id)) {
    fail("{}: {} is {}, expected a token id below {}", file.path(), key, *id, vocabulary.size());
  }
  return static_cast<std::int32_t>(*id);
}

/// Converters have marked end tokens as ordinary text; taken for text they would not be parsed.
void mark_end_tokens(Vocabulary& vocabulary) {
  for (const std::string_view text : end_texts()) {
    const std::int32_t id = text == "</s>" ? -1 : vocabulary.find(text);
    if (id >= 0) vocabulary.set_kind(id, TokenKind::control);
  }
}

void list_special_tokens(const GgufFile& file, TokenizerSpec& spec) {
  // Phi-3's tokens take the white space behind them along, which GGUF has no field for.
  std::string model = file.find_string("general.name").value_or("");
  std::transform(model.begin(), model.end(), model.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  const bool phi3 =
      model.find("phi-3") != std::string::npos || model.find("phi3") != std::string::npos;
  for (std::int32_t id = 0; id < spec.vocabulary.size(); ++id) {
    const TokenKind kind = spec.vocabulary.kind(id);
    const bool always = kind == TokenKind::user_defined;
    if (!always && kind != TokenKind::control && kind != TokenKind::unknown) continue;
    SpecialToken token{.text = std::string(spec.vocabulary.text(id)), .id = id};
    token.strip_right =
        phi3 && token.text != "<s>" && token.text != "<unk>" && token.text != "<|endoftext|>";
    if (always) spec.raw_text_always.push_back(token);
    spec.raw_text_all.push_back(std::move(token));
  }
}

void read_byte_pairs(const GgufFile& file, const std::string& model, TokenizerSpec& spec) {
  const std::string pre =
      model == "gemma4" ? model : file.find_string("tokenizer.ggml.pre").value_or("default");
  const PublishedPretokenizer* published = find_published_pretokenizer(pre);
  if (published == nullptr) {
    fail("{}: tokenizer.ggml.pre is {}, expected one of {}", file.path(), printable(pre),
         published_pretokenizer_names());
  }
  for (const std::string_view pattern : published->patterns) {
    spec.pretokenizer.add(SplitStep{.regex = Regex(pattern, file.path())});
  }
  spec.metaspace = published->metaspace;
  spec.bpe.model = published->metaspace ? MergeModel::characters : MergeModel::bytes;
  spec.bpe.byte_fallback = published->metaspace;
  spec.bpe.ignore_merges = published->ignore_merges;
  spec.add_bos = published->add_bos;
  read_merges(file, spec.vocabulary, spec.bpe.merges);
}

void read_sentencepiece(const GgufFile& file, TokenizerSpec& spec) {
  spec.metaspace = true;
  spec.bpe.model = MergeModel::scores;
  spec.bpe.byte_fallback = true;
  spec.add_bos = true;
  if (file.find_bool("tokenizer.ggml.add_space_prefix").value_or(true)) {
    spec.prefix = spec.decode_prefix = SpacePrefix::always;
  }
  read_scores(file, spec.bpe, spec.vocabulary);
}

}  // namespace

Tokenizer Tokenizer::from_gguf(const GgufFile& file) {
  TokenizerSpec spec(file.path());
  const std::string model = file.require_string(kModelKey);
  const bool sentencepiece = model == "llama";
  if (!sentencepiece && model != "gpt2" && model != "gemma4") {
    fail("{}: {} is {}, expected gpt2 (byte-level BPE), llama (SentencePiece BPE) or gemma4",
         file.path(), kModelKey, printable(model));
  }
  read_vocabulary(file, spec.vocabulary);
  if (sentencepiece) {
    read_sentencepiece(file, spec);
  } else {
    read_byte_pairs(file, model, spec);
  }
  mark_end_tokens(spec.vocabulary);
  list_special_tokens(file, spec);

  spec.bos = read_id(file, spec.vocabulary, "bos", sentencepiece ? 1 : -1);
  spec.eos = read_id(file, spec.vocabulary, "eos", sentencepiece ? 2 : -1);
  spec.bpe.unknown = read_id(file, spec.vocabulary, "unknown", sentencepiece ? 0 : -1);
  for (const std::string_view what : {"eot", "eom"}) {
    const std::int32_t id = read_id(file, spec.vocabulary, what, -1);
    if (id >= 0) spec.end_tokens.push_back(id);
  }
  const auto wanted = [&](std::string_view key, bool otherwise, std::int32_t id) {
    const std::optional<bool> stated = file.find_bool(key);
    if (stated.value_or(false) && id < 0) {
      fail("{}: {} is true, but the file names no such token", file.path(), key);
    }
    return stated.value_or(otherwise) && id >= 0;
  };
  spec.add_bos = wanted("tokenizer.ggml.add_bos_token", spec.add_bos, spec.bos);
  spec.add_eos = wanted("tokenizer.ggml.add_eos_token", false, spec.eos);
  spec.chat_template = file.find_string("tokenizer.chat_template").value_or("");
  return build(std::move(spec));
}

}  // namespace sedpa
