#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "sedpa/core/fail.h"
#include "sedpa/format/printable.h"
#include "sedpa/tokenizer/readers.h"
#include "sedpa/tokenizer/spaces.h"

namespace sedpa {

namespace {

/// One field of a protocol buffers message, as it stands on the wire.
struct WireField {
  std::uint64_t number = 0;
  std::uint64_t wire_type = 0;
  std::uint64_t integer = 0;  // wire types 0, 1 and 5
  std::string_view bytes;     // wire type 2
};

/// Reads a message field by field (protobuf.dev/programming-guides/encoding).
class WireReader {
 public:
  WireReader(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  std::optional<WireField> next() {
    if (place_ == bytes_.size()) return std::nullopt;
    WireField field;
    const std::uint64_t tag = varint();
    field.number = tag >> 3;
    field.wire_type = tag & 7;
    switch (field.wire_type) {
      case 0:
        field.integer = varint();
        break;
      case 1:
        field.integer = fixed(8);
        break;
      case 2: {
        const std::uint64_t size = varint();
        if (size > bytes_.size() - place_) truncated(size);
        field.bytes = bytes_.substr(place_, size);
        place_ += size;
        break;
      }
      case 5:
        field.integer = fixed(4);
        break;
      default:
        fail("{}: field {} at byte {} has wire type {}, expected 0, 1, 2 or 5", where_,
             field.number, place_, field.wire_type);
    }
    return field;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (place_ == bytes_.size()) truncated(1);
      const auto byte = static_cast<unsigned char>(bytes_[place_++]);
      if (shift == 63 && byte > 1) break;
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("{}: a number at byte {} is longer than 64 bits", where_, place_);
  }

  std::uint64_t fixed(std::size_t size) {
    if (size > bytes_.size() - place_) truncated(size);
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
      value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes_[place_ + i])) << 8 * i;
    }
    place_ += size;
    return value;
  }

  [[noreturn]] void truncated(std::uint64_t size) const {
    fail("{}: truncated: {} bytes wanted at byte {} of {}", where_, size, place_, bytes_.size());
  }

  std::string_view bytes_;
  const std::string& where_;
  std::size_t place_ = 0;
};

/// What the model says beside its pieces; the defaults are those of sentencepiece_model.proto.
struct Settings {
  std::uint64_t model_type = 1;
  bool byte_fallback = false;
  bool space_as_suffix = false;
  std::int64_t unknown = 0;
  std::int64_t bos = 1;
  std::int64_t eos = 2;
  std::string normalizer;
  bool has_character_map = false;
  bool add_dummy_prefix = true;
  bool remove_extra_spaces = true;
  bool escape_spaces = true;
};

void expect_wire(const WireField& field, std::uint64_t wire_type, const std::string& where) {
  if (field.wire_type != wire_type) {
    fail("{}: field {} has wire type {}, expected {}", where, field.number, field.wire_type,
         wire_type);
  }
}

void read_piece(std::string_view bytes, TokenizerSpec& spec) {
  const std::string& name = spec.vocabulary.name();
  std::string_view text;
  float score = 0;
  std::uint64_t kind = 1;
  WireReader reader(bytes, name);
  while (const auto field = reader.next()) {
    if (field->number == 1) {
      expect_wire(*field, 2, name);
      text = field->bytes;
    } else if (field->number == 2) {
      expect_wire(*field, 5, name);
      score = std::bit_cast<float>(static_cast<std::uint32_t>(field->integer));
    } else if (field->number == 3) {
      expect_wire(*field, 0, name);
      kind = field->integer;
    }
  }
  const std::int32_t id = spec.vocabulary.size();
  if (kind < 1 || kind > 6) fail("{}: piece {} is of type {}, expected 1 to 6", name, id, kind);
  if (!std::isfinite(score)) {
    fail("{}: piece {} has score {}, expected a finite number", name, id, score);
  }
  if (static_cast<TokenKind>(kind) == TokenKind::user_defined) {
    // Found where spaces are visible already; what it stands for has plain ones.
    std::string plain;
    append_unmetaspaced(text, plain);
    spec.vocabulary.add(plain, TokenKind::user_defined);
    spec.normalized_always.push_back({.text = std::string(text), .id = id});
    spec.normalized_all.push_back(spec.normalized_always.back());
  } else {
    spec.vocabulary.add(text, static_cast<TokenKind>(kind));
  }
  spec.bpe.scores.push_back(score);
}

void read_trainer(std::string_view bytes, const std::string& name, Settings& settings) {
  WireReader reader(bytes, name);
  while (const auto field = reader.next()) {
    const auto integer = [&] {
      expect_wire(*field, 0, name);
      return field->integer;
    };
    switch (field->number) {
      case 3:
        settings.model_type = integer();
        break;
      case 24:
        settings.space_as_suffix = integer() != 0;
        break;
      case 35:
        settings.byte_fallback = integer() != 0;
        break;
      case 40:
        settings.unknown = static_cast<std::int64_t>(integer());
        break;
      case 41:
        settings.bos = static_cast<std::int64_t>(integer());
        break;
      case 42:
        settings.eos = static_cast<std::int64_t>(integer());
        break;
      default:
        break;
    }
  }
}

void read_normalizer(std::string_view bytes, const std::string& name, Settings& settings) {
  WireReader reader(bytes, name);
  while (const auto field = reader.next()) {
    if (field->number >= 1 && field->number <= 2) expect_wire(*field, 2, name);
    if (field->number >= 3 && field->number <= 5) expect_wire(*field, 0, name);
    switch (field->number) {
      case 1:
        settings.normalizer = field->bytes;
        break;
      case 2:
        settings.has_character_map = !field->bytes.empty();
        break;
      case 3:
        settings.add_dummy_prefix = field->integer != 0;
        break;
      case 4:
        settings.remove_extra_spaces = field->integer != 0;
        break;
      case 5:
        settings.escape_spaces = field->integer != 0;
        break;
      default:
        break;
    }
  }
}

std::int32_t checked_id(const TokenizerSpec& spec, std::string_view what, std::int64_t id) {
  if (id == -1) return -1;
  if (!spec.vocabulary.contains(id)) {
    fail("{}: {} is {}, expected -1 or a piece below {}", spec.vocabulary.name(), what, id,
         spec.vocabulary.size());
  }
  return static_cast<std::int32_t>(id);
}

void apply(const Settings& settings, TokenizerSpec& spec) {
  const std::string& name = spec.vocabulary.name();
  if (settings.model_type != 2) {
    fail(
        "{}: model type {}, expected 2 (BPE): unigram, word and character models are not supported",
        name, settings.model_type);
  }
  if (settings.has_character_map) {
    fail("{}: normaliser {}, expected identity: character maps are not supported", name,
         printable(settings.normalizer));
  }
  if (settings.space_as_suffix || !settings.escape_spaces) {
    fail("{}: spaces as suffixes or not escaped, expected them as prefixes", name);
  }
  const std::string space(kMetaspace);
  if (settings.remove_extra_spaces) {
    spec.normalizer.add(ReplacePatternStep{Regex("\\A +", name), ""});
    spec.normalizer.add(ReplacePatternStep{Regex(" {2,}", name), " "});
  }
  spec.normalizer.add(ReplaceTextStep{" ", space});
  if (settings.remove_extra_spaces) {  // at the end a "▁" of the text's own goes too
    spec.normalizer.add(ReplacePatternStep{Regex("(?:▁)+\\z", name), ""});
  }
  if (settings.add_dummy_prefix) {
    spec.normalizer.add(PrependStep{space});
    spec.decode_prefix = SpacePrefix::always;
    spec.user_defined_is_text = true;
  }
  spec.bpe.model = MergeModel::scores;
  spec.bpe.byte_fallback = settings.byte_fallback;
  spec.bpe.unknown = checked_id(spec, "unk_id", settings.unknown);
  spec.bos = checked_id(spec, "bos_id", settings.bos);
  spec.eos = checked_id(spec, "eos_id", settings.eos);
}

}  // namespace

TokenizerSpec read_sentencepiece_model(std::string_view bytes, const std::string& name) {
  TokenizerSpec spec(name);
  Settings settings;
  WireReader reader(bytes, name);
  while (const auto field = reader.next()) {
    if (field->number < 1 || field->number > 3) continue;
    expect_wire(*field, 2, name);
    if (field->number == 1) read_piece(field->bytes, spec);
    if (field->number == 2) read_trainer(field->bytes, name, settings);
    if (field->number == 3) read_normalizer(field->bytes, name, settings);
  }
  if (spec.vocabulary.size() == 0) fail("{}: no pieces, expected a SentencePiece model", name);
  apply(settings, spec);
  for (std::int32_t id = 0; id < spec.vocabulary.size(); ++id) {
    const TokenKind kind = spec.vocabulary.kind(id);
    if (kind != TokenKind::control && kind != TokenKind::unknown) continue;
    spec.raw_text_all.push_back({.text = std::string(spec.vocabulary.text(id)), .id = id});
  }
  return spec;
}

}  // namespace sedpa
