#include "sedpa/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "sedpa/core/fail.h"
#include "sedpa/tokenizer/byte_alphabet.h"
#include "sedpa/tokenizer/spaces.h"
#include "sedpa/tokenizer/spec.h"
#include "sedpa/tokenizer/utf8.h"

namespace sedpa {

struct Tokenizer::Impl {
  explicit Impl(TokenizerSpec s) : spec(std::move(s)) {}

  TokenizerSpec spec;
  SpecialTokens raw_text_always;
  SpecialTokens raw_text_all;
  SpecialTokens normalized_always;
  SpecialTokens normalized_all;
  std::string piece_bytes;                  // what the tokens stand for, end to end
  std::vector<std::uint32_t> piece_begins;  // [vocabulary + 1]
  std::vector<std::int32_t> end_tokens;     // ascending
  std::string fingerprint;

  [[nodiscard]] std::string_view piece(std::int32_t id) const {
    const auto i = static_cast<std::size_t>(id);
    return std::string_view(piece_bytes)
        .substr(piece_begins[i], piece_begins[i + 1] - piece_begins[i]);
  }
  void check(std::int32_t id) const {
    if (!spec.vocabulary.contains(id)) {
      fail("{}: token {} is outside the vocabulary of {} tokens", spec.vocabulary.name(), id,
           spec.vocabulary.size());
    }
  }
  [[nodiscard]] bool is_control(std::int32_t id) const {
    const TokenKind kind = spec.vocabulary.kind(id);
    return kind == TokenKind::control || kind == TokenKind::unknown;
  }
  [[nodiscard]] bool is_special(std::int32_t id) const {
    return is_control(id) || spec.vocabulary.kind(id) == TokenKind::user_defined;
  }

  void make_pieces();
  void find_end_tokens();
  void make_fingerprint();

  struct Work;
  void encode_stretch(std::string_view text, bool at_start, Work& work,
                      std::vector<std::int32_t>& ids) const;
  void encode_words(std::string_view text, bool at_start, Work& work,
                    std::vector<std::int32_t>& ids) const;
};

/// What one call of encode writes to.
struct Tokenizer::Impl::Work {
  const SpecialTokens* normalized = nullptr;
  std::shared_ptr<Bpe::Room> room = Bpe::make_room();
  Pretokenizer::Pieces pieces;
  std::vector<Fragment> fragments;
  std::string visible;
  std::string bytes;
  bool prefix_wanted = true;
};

namespace {

/// Byte tokens are spelt "<0x0A>"; -1 for any other text.
int byte_of(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const int high = digit(text[3]);
  const int low = digit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace

void Tokenizer::Impl::make_pieces() {
  const Vocabulary& vocabulary = spec.vocabulary;
  piece_begins.reserve(static_cast<std::size_t>(vocabulary.size()) + 1);
  piece_begins.push_back(0);
  for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = vocabulary.text(id);
    const int byte = vocabulary.kind(id) == TokenKind::byte ? byte_of(text) : -1;
    if (byte >= 0) {
      piece_bytes += static_cast<char>(byte);
    } else if (is_special(id)) {
      piece_bytes += text;
    } else if (spec.bpe.model != MergeModel::bytes) {
      append_unmetaspaced(text, piece_bytes);
    } else if (!unspell_bytes(text, piece_bytes)) {
      piece_bytes += text;  // not in the alphabet: it stands for itself
    }
    piece_begins.push_back(static_cast<std::uint32_t>(piece_bytes.size()));
  }
}

void Tokenizer::Impl::find_end_tokens() {
  Vocabulary& vocabulary = spec.vocabulary;
  end_tokens = spec.end_tokens;
  if (spec.eos >= 0) end_tokens.push_back(spec.eos);
  for (const std::string_view text : end_texts()) {
    const std::int32_t id = vocabulary.find(text);
    if (id >= 0 && is_special(id)) end_tokens.push_back(id);
  }
  // The harmony format ends with <|return|> or <|call|>; there <|end|> only parts messages.
  const auto has = [&](std::string_view text) { return vocabulary.find(text) >= 0; };
  if ((has("<|return|>") && has("<|call|>")) || (has("<|calls|>") && has("<|flush|>"))) {
    std::erase(end_tokens, vocabulary.find("<|end|>"));
  }
  std::sort(end_tokens.begin(), end_tokens.end());
  end_tokens.erase(std::unique(end_tokens.begin(), end_tokens.end()), end_tokens.end());
}

void Tokenizer::Impl::make_fingerprint() {
  // FNV-1a, 64 bits, over what decides the ids.
  std::uint64_t hash = 0xCBF29CE484222325u;
  const auto mix = [&](std::string_view bytes) {
    for (const char c : bytes) {
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
    }
  };
  for (std::int32_t id = 0; id < spec.vocabulary.size(); ++id) {
    const char kind = static_cast<char>(spec.vocabulary.kind(id));
    mix(spec.vocabulary.text(id));
    mix({&kind, 1});
  }
  mix(fmt::format("{} {} {}", spec.bpe.merges.size(), static_cast<int>(spec.bpe.model),
                  spec.bpe.ignore_merges));
  fingerprint = fmt::format("{:016x}", hash);
}

std::span<const std::string_view> end_texts() {
  static constexpr std::string_view kTexts[] = {"</s>",
                                                "<|eot_id|>",
                                                "<|im_end|>",
                                                "<|end|>",
                                                "<|return|>",
                                                "<|call|>",
                                                "<|flush|>",
                                                "<|calls|>",
                                                "<end_of_turn>",
                                                "<|endoftext|>",
                                                "<|eom_id|>",
                                                "<EOT>",
                                                "_<EOT>",
                                                "[EOT]",
                                                "[EOS]",
                                                "<|end_of_text|>",
                                                "<end_of_utterance>",
                                                "<eos>",
                                                "<turn|>",
                                                "<|tool_response>",
                                                "<｜end▁of▁sentence｜>",
                                                "[e~[",
                                                "<|fim_pad|>",
                                                "<|repo_name|>",
                                                "<|fim_repo|>",
                                                "<|file_sep|>"};
  return kTexts;
}

Tokenizer Tokenizer::build(TokenizerSpec spec) {
  auto impl = std::make_shared<Impl>(std::move(spec));
  TokenizerSpec& known = impl->spec;
  known.bpe.prepare(known.vocabulary);
  impl->raw_text_always = SpecialTokens(std::move(known.raw_text_always));
  impl->raw_text_all = SpecialTokens(std::move(known.raw_text_all));
  impl->normalized_always = SpecialTokens(std::move(known.normalized_always));
  impl->normalized_all = SpecialTokens(std::move(known.normalized_all));
  impl->make_pieces();
  impl->find_end_tokens();
  impl->make_fingerprint();
  return Tokenizer(std::move(impl));
}

void Tokenizer::Impl::encode_words(std::string_view text, bool at_start, Work& work,
                                   std::vector<std::int32_t>& ids) const {
  const auto encode = [&](std::string_view word) {
    spec.bpe.encode(word, spec.vocabulary, *work.room, ids);
  };
  if (!spec.pretokenizer.empty()) {
    spec.pretokenizer.split(text, at_start, work.pieces);
    const bool spelt = spec.pretokenizer.spells();
    for (const std::string_view piece : work.pieces.views) {
      if (!spelt) {
        encode(piece);
        continue;
      }
      work.bytes.clear();
      if (!unspell_bytes(piece, work.bytes)) work.bytes = piece;
      encode(work.bytes);
    }
    return;
  }
  if (spec.bpe.model == MergeModel::bytes) {
    encode(text);
    return;
  }
  // The whole text is one word; cutting it where no token reaches across changes nothing but the
  // length of the queue.
  std::size_t begin = 0;
  for (std::size_t i = text.find(kMetaspace, 1); i != std::string_view::npos;
       i = text.find(kMetaspace, i + 1)) {
    if (!spec.bpe.may_cut(text, i)) continue;
    encode(text.substr(begin, i - begin));
    begin = i;
  }
  encode(text.substr(begin));
}

void Tokenizer::Impl::encode_stretch(std::string_view text, bool at_start, Work& work,
                                     std::vector<std::int32_t>& ids) const {
  if (spec.metaspace) {
    work.visible.clear();
    if (work.prefix_wanted) work.visible = kMetaspace;
    append_metaspaced(text, work.visible);
    text = work.visible;
  }
  encode_words(text, at_start, work, ids);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_special,
                                            bool parse_special) const {
  const TokenizerSpec& spec = impl_->spec;
  if (text.size() > std::numeric_limits<std::int32_t>::max() / 4) {
    fail("{}: a text of {} bytes, expected at most {}", spec.vocabulary.name(), text.size(),
         std::numeric_limits<std::int32_t>::max() / 4);
  }
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3 + 2);
  if (add_special && spec.add_bos) ids.push_back(spec.bos);

  const SpecialTokens& raw = parse_special ? impl_->raw_text_all : impl_->raw_text_always;
  const SpecialTokens& normalized =
      parse_special ? impl_->normalized_all : impl_->normalized_always;
  Impl::Work work;
  work.prefix_wanted = spec.prefix != SpacePrefix::never;
  const auto take = [&](const Fragment& fragment, bool at_start) {
    if (fragment.id < 0) {
      impl_->encode_stretch(fragment.text, at_start, work, ids);
      work.prefix_wanted = false;
      return;
    }
    ids.push_back(fragment.id);
    work.prefix_wanted = spec.prefix == SpacePrefix::always;
  };

  std::vector<Fragment> fragments;
  raw.split(text, fragments);
  for (const Fragment& fragment : fragments) {
    const bool at_start = fragment.text.data() == text.data();
    if (fragment.id >= 0 || (spec.normalizer.empty() && normalized.empty())) {
      take(fragment, at_start);
      continue;
    }
    const std::string changed = spec.normalizer.apply(fragment.text);
    work.fragments.clear();
    normalized.split(changed, work.fragments);
    for (const Fragment& part : work.fragments) {
      take(part, at_start && part.text.data() == changed.data());
    }
  }
  if (add_special && spec.add_eos) ids.push_back(spec.eos);
  return ids;
}

namespace {

/// Whether the space at the beginning of what follows is encode's own, and to be taken away.
class PrefixRemover {
 public:
  PrefixRemover(const TokenizerSpec& spec, bool at_start)
      : spec_(spec), due_(at_start && spec.decode_prefix != SpacePrefix::never) {}

  /// `piece` without it. Special tokens keep theirs and may make the next one due.
  std::string_view without(std::string_view piece, std::int32_t id) {
    const TokenKind kind = spec_.vocabulary.kind(id);
    const bool special = kind == TokenKind::control || kind == TokenKind::unknown ||
                         (kind == TokenKind::user_defined && !spec_.user_defined_is_text);
    if (special) {
      due_ = (due_ && id == spec_.bos) || spec_.decode_prefix == SpacePrefix::always;
      return piece;
    }
    if (due_ && piece.starts_with(' ')) piece.remove_prefix(1);
    due_ = false;
    return piece;
  }
  [[nodiscard]] bool due() const { return due_; }

 private:
  const TokenizerSpec& spec_;
  bool due_;
};

}  // namespace

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool render_special) const {
  std::string text;
  PrefixRemover remover(impl_->spec, true);
  for (const std::int32_t id : ids) {
    impl_->check(id);
    const std::string_view piece = remover.without(impl_->piece(id), id);
    if (render_special || !impl_->is_control(id)) text += piece;
  }
  return text;
}

std::string Tokenizer::piece(std::int32_t id) const {
  impl_->check(id);
  return std::string(impl_->piece(id));
}

bool Tokenizer::is_control(std::int32_t id) const {
  impl_->check(id);
  return impl_->is_control(id);
}

bool Tokenizer::is_end(std::int32_t id) const {
  return std::binary_search(impl_->end_tokens.begin(), impl_->end_tokens.end(), id);
}

std::int32_t Tokenizer::find(std::string_view text) const {
  return impl_->spec.vocabulary.find(text);
}
std::int32_t Tokenizer::vocab_size() const { return impl_->spec.vocabulary.size(); }
std::int32_t Tokenizer::bos() const { return impl_->spec.bos; }
std::int32_t Tokenizer::eos() const { return impl_->spec.eos; }
const std::vector<std::int32_t>& Tokenizer::end_tokens() const { return impl_->end_tokens; }
bool Tokenizer::add_bos() const { return impl_->spec.add_bos; }
bool Tokenizer::add_eos() const { return impl_->spec.add_eos; }
const std::string& Tokenizer::chat_template() const { return impl_->spec.chat_template; }
const std::string& Tokenizer::fingerprint() const { return impl_->fingerprint; }

StreamDecoder::StreamDecoder(Tokenizer tokenizer, bool at_start, bool render_special)
    : tokenizer_(std::move(tokenizer)), at_start_(at_start), render_special_(render_special) {
  at_start_ = PrefixRemover(tokenizer_.impl_->spec, at_start).due();
}

std::string StreamDecoder::push(std::int32_t id) {
  const Tokenizer::Impl& impl = *tokenizer_.impl_;
  impl.check(id);
  PrefixRemover remover(impl.spec, at_start_);
  const std::string_view piece = remover.without(impl.piece(id), id);
  at_start_ = remover.due();
  if (render_special_ || !impl.is_control(id)) held_ += piece;
  const std::size_t tail = utf8_incomplete_tail(held_);
  std::string certain = held_.substr(0, held_.size() - tail);
  held_.erase(0, certain.size());
  return certain;
}

std::string StreamDecoder::finish() {
  at_start_ = false;
  return std::exchange(held_, {});
}

}  // namespace sedpa
