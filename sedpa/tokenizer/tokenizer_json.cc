#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "sedpa/core/fail.h"
#include "sedpa/format/printable.h"
#include "sedpa/tokenizer/json_field.h"
#include "sedpa/tokenizer/published_patterns.h"
#include "sedpa/tokenizer/readers.h"
#include "sedpa/tokenizer/spaces.h"
#include "sedpa/tokenizer/tokenizer_document.h"

namespace sedpa {

namespace {

/// A choice among names; throws with all of them when it is none.
template <class Value, std::size_t kCount>
Value choose(const JsonField& field,
             const std::array<std::pair<std::string_view, Value>, kCount>& known) {
  const std::string& wanted = field.string();
  std::string names;
  for (const auto& [name, value] : known) {
    if (name == wanted) return value;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  field.expected("one of " + names);
}

SplitBehavior read_behavior(const JsonField& field, SplitBehavior otherwise) {
  static constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kBehaviors = {{
      {"Removed", SplitBehavior::removed},
      {"Isolated", SplitBehavior::isolated},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous},
  }};
  return field.absent() ? otherwise : choose(field, kBehaviors);
}

/// {"String": text} or {"Regex": pattern}; the text as a pattern that matches it and nothing else.
Regex read_pattern(const JsonField& field) {
  if (!field["Regex"].absent()) return {field["Regex"].string(), field.where()};
  std::string quoted;
  for (const char c : field["String"].string()) {
    const bool plain = (c & 0x80) != 0 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
                       (c >= 'a' && c <= 'z');
    if (c == 0) {
      quoted += "\\0";
      continue;
    }
    if (!plain) quoted += '\\';
    quoted += c;
  }
  return {quoted, field.where()};
}

void check_metaspace(const JsonField& step) {
  if (!step["replacement"].absent() && step["replacement"].string() != kMetaspace) {
    step["replacement"].expected("\"▁\"");
  }
}

// --- tokens -------------------------------------------------------------------------------------

struct AddedToken {
  SpecialToken token;
  bool special = false;
  bool normalized = false;
};

std::vector<AddedToken> read_added_tokens(const JsonField& list) {
  std::vector<AddedToken> added;
  if (list.absent()) return added;
  for (std::size_t i = 0; i < list.array().size(); ++i) {
    const JsonField entry = list[i];
    const std::int64_t id = entry["id"].integer();
    if (id < 0 || id > std::numeric_limits<std::int32_t>::max()) {
      entry["id"].expected("a token id");
    }
    const bool special = entry["special"].boolean(false);
    added.push_back({.token = {.text = entry["content"].string(),
                               .id = static_cast<std::int32_t>(id),
                               .strip_left = entry["lstrip"].boolean(false),
                               .strip_right = entry["rstrip"].boolean(false),
                               .whole_word = entry["single_word"].boolean(false)},
                     .special = special,
                     .normalized = entry["normalized"].boolean(!special)});
  }
  return added;
}

bool is_byte_token(std::string_view text) {
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return text.size() == 6 && text.starts_with("<0x") && hex(text[3]) && hex(text[4]) &&
         text[5] == '>';
}

/// Ids in the file need not come in order, and added tokens continue or repeat them.
void read_vocabulary(const TokenizerDocument& document, const std::vector<AddedToken>& added,
                     bool byte_fallback, Vocabulary& vocabulary) {
  const std::string& name = vocabulary.name();
  std::size_t largest = 0;
  // Holes are few in any real file; a lone huge id would only ask for memory.
  const std::size_t limit = 2 * (document.vocab.size() + added.size()) + 4096;
  const auto check_id = [&](std::int64_t id, std::string_view text) {
    if (id < 0 || static_cast<std::uint64_t>(id) >= limit) {
      fail("{}: token {} has id {}, expected 0 to {}", name, printable(text), id, limit - 1);
    }
    largest = std::max(largest, static_cast<std::size_t>(id) + 1);
  };
  for (const auto& [text, id] : document.vocab) check_id(id, document.text(text));
  for (const AddedToken& token : added) check_id(token.token.id, token.token.text);

  std::vector<std::string_view> texts(largest);
  std::vector<TokenKind> kinds(largest, TokenKind::normal);
  for (const auto& [place, number] : document.vocab) {
    const std::string_view text = document.text(place);
    const auto id = static_cast<std::size_t>(number);
    if (!texts[id].empty()) {
      fail("{}: tokens {} and {} have the same id {}", name, printable(texts[id]), printable(text),
           id);
    }
    texts[id] = text;
    if (byte_fallback && is_byte_token(text)) kinds[id] = TokenKind::byte;
  }
  for (const AddedToken& token : added) {
    const auto id = static_cast<std::size_t>(token.token.id);
    if (!texts[id].empty() && texts[id] != token.token.text) {
      fail("{}: added token {} has id {}, which is {}", name, printable(token.token.text), id,
           printable(texts[id]));
    }
    texts[id] = token.token.text;
    kinds[id] = token.special ? TokenKind::control : TokenKind::user_defined;
  }
  vocabulary.reserve(largest);
  for (std::size_t id = 0; id < largest; ++id) {
    if (texts[id].empty()) {
      vocabulary.add("[EMPTY_" + std::to_string(id) + "]", TokenKind::unused);
    } else {
      vocabulary.add(texts[id], kinds[id]);
    }
  }
}

// --- normaliser ---------------------------------------------------------------------------------

/// Every step of a possibly nested Sequence, in order.
template <class Visit>
void for_each_step(const JsonField& step, std::string_view list, const Visit& visit) {
  if (step.absent()) return;
  if (step["type"].string() != "Sequence") {
    visit(step);
    return;
  }
  const JsonField steps = step[list];
  for (std::size_t i = 0; i < steps.array().size(); ++i) for_each_step(steps[i], list, visit);
}

void read_normalizer(const JsonField& root, TokenizerSpec& spec) {
  for_each_step(root, "normalizers", [&](const JsonField& step) {
    enum class Type { form_c, form_d, form_kc, form_kd, prepend, replace, strip };
    static constexpr std::array<std::pair<std::string_view, Type>, 7> kTypes = {{
        {"NFC", Type::form_c},
        {"NFD", Type::form_d},
        {"NFKC", Type::form_kc},
        {"NFKD", Type::form_kd},
        {"Prepend", Type::prepend},
        {"Replace", Type::replace},
        {"Strip", Type::strip},
    }};
    switch (choose(step["type"], kTypes)) {
      case Type::form_c:
        return spec.normalizer.add(UnicodeForm::nfc);
      case Type::form_d:
        return spec.normalizer.add(UnicodeForm::nfd);
      case Type::form_kc:
        return spec.normalizer.add(UnicodeForm::nfkc);
      case Type::form_kd:
        return spec.normalizer.add(UnicodeForm::nfkd);
      case Type::prepend:
        if (step["prepend"].string() == kMetaspace) spec.decode_prefix = SpacePrefix::always;
        return spec.normalizer.add(PrependStep{step["prepend"].string()});
      case Type::replace:
        if (step["pattern"]["String"].absent()) {
          return spec.normalizer.add(
              ReplacePatternStep{read_pattern(step["pattern"]), step["content"].string()});
        }
        return spec.normalizer.add(
            ReplaceTextStep{step["pattern"]["String"].string(), step["content"].string()});
      case Type::strip:
        return spec.normalizer.add(
            StripStep{step["strip_left"].boolean(true), step["strip_right"].boolean(true)});
    }
  });
}

// --- pre-tokenizer ------------------------------------------------------------------------------

SpacePrefix read_prepend_scheme(const JsonField& step) {
  static constexpr std::array<std::pair<std::string_view, SpacePrefix>, 3> kSchemes = {{
      {"always", SpacePrefix::always},
      {"first", SpacePrefix::first},
      {"never", SpacePrefix::never},
  }};
  if (!step["prepend_scheme"].absent()) return choose(step["prepend_scheme"], kSchemes);
  return step["add_prefix_space"].boolean(true) ? SpacePrefix::always : SpacePrefix::never;
}

void read_pretokenizer(const JsonField& root, TokenizerSpec& spec) {
  bool spelt = false;  // a ByteLevel has been seen: what follows sees its alphabet
  for_each_step(root, "pretokenizers", [&](const JsonField& step) {
    enum class Type { byte_level, metaspace, split, digits, punctuation, words, spaces };
    static constexpr std::array<std::pair<std::string_view, Type>, 7> kTypes = {{
        {"ByteLevel", Type::byte_level},
        {"Metaspace", Type::metaspace},
        {"Split", Type::split},
        {"Digits", Type::digits},
        {"Punctuation", Type::punctuation},
        {"Whitespace", Type::words},
        {"WhitespaceSplit", Type::spaces},
    }};
    const Type type = choose(step["type"], kTypes);
    if (spelt) {
      if (type == Type::byte_level) step["type"].expected("one ByteLevel only");
      if (!spec.pretokenizer.spells()) spec.pretokenizer.add(SpellBytesStep{});
    }
    const auto split = [&](std::string_view pattern, SplitBehavior behavior, bool invert = false) {
      spec.pretokenizer.add(
          SplitStep{.regex = Regex(pattern, step.where()), .behavior = behavior, .invert = invert});
    };
    switch (type) {
      case Type::byte_level:
        spelt = true;
        spec.bpe.model = MergeModel::bytes;
        if (step["add_prefix_space"].boolean(true)) spec.pretokenizer.add(PrefixSpaceStep{});
        if (step["use_regex"].boolean(true)) split(gpt2_pattern(), SplitBehavior::isolated);
        return;
      case Type::metaspace:
        check_metaspace(step);
        spec.decode_prefix = read_prepend_scheme(step);
        spec.pretokenizer.add(
            MetaspaceStep{.prefix = spec.decode_prefix, .split = step["split"].boolean(true)});
        return;
      case Type::split:
        spec.pretokenizer.add(
            SplitStep{.regex = read_pattern(step["pattern"]),
                      .behavior = read_behavior(step["behavior"], SplitBehavior::isolated),
                      .invert = step["invert"].boolean(false)});
        return;
      case Type::digits:
        return split(step["individual_digits"].boolean(false) ? R"(\p{N})" : R"(\p{N}+)",
                     SplitBehavior::isolated);
      case Type::punctuation:
        return split(R"([\p{P}!-/:-@\[-`{-~])",
                     read_behavior(step["behavior"], SplitBehavior::isolated));
      case Type::words:
        return split(R"(\w+|[^\w\s]+)", SplitBehavior::removed, true);
      case Type::spaces:
        return split(R"(\s)", SplitBehavior::removed);
    }
  });
}

void check_decoder(const JsonField& root) {
  for_each_step(root, "decoders", [](const JsonField& step) {
    static constexpr std::array<std::pair<std::string_view, bool>, 6> kTypes = {{
        {"ByteLevel", false},
        {"Metaspace", true},
        {"ByteFallback", false},
        {"Fuse", false},
        {"Replace", false},
        {"Strip", false},
    }};
    if (choose(step["type"], kTypes)) check_metaspace(step);
  });
}

// --- what is added at the ends
// --------------------------------------------------------------------

/// A template may put one token before the text and one behind it.
void read_template(const JsonField& step, TokenizerSpec& spec) {
  const JsonField single = step["single"];
  bool text_seen = false;
  for (std::size_t i = 0; i < single.array().size(); ++i) {
    if (!single[i]["Sequence"].absent()) {
      if (text_seen) single.expected("the text once");
      text_seen = true;
      continue;
    }
    const std::string& name = single[i]["SpecialToken"]["id"].string();
    const JsonField ids = step["special_tokens"][name]["ids"];
    if (ids.array().size() != 1) ids.expected("one token id");
    const std::int64_t id = ids[0].integer();
    if (!spec.vocabulary.contains(id)) ids[0].expected("a token id of the vocabulary");
    bool& added = text_seen ? spec.add_eos : spec.add_bos;
    if (added) single.expected("one token at most on each side of the text");
    added = true;
    (text_seen ? spec.eos : spec.bos) = static_cast<std::int32_t>(id);
  }
  if (!text_seen) single.expected("the text in it");
}

void read_post_processor(const JsonField& root, TokenizerSpec& spec) {
  for_each_step(root, "processors", [&](const JsonField& step) {
    static constexpr std::array<std::pair<std::string_view, bool>, 2> kTypes = {{
        {"ByteLevel", false},  // changes offsets, not tokens
        {"TemplateProcessing", true},
    }};
    if (choose(step["type"], kTypes)) read_template(step, spec);
  });
}

void read_model(const TokenizerDocument& document, const JsonField& model,
                const std::vector<AddedToken>& added, TokenizerSpec& spec) {
  if (!model["type"].absent() && model["type"].string() != "BPE") {
    model["type"].expected("BPE, the only model that is supported");
  }
  for (const std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model[affix].absent() && !model[affix].string().empty()) {
      model[affix].expected("none: pieces with affixes are not supported");
    }
  }
  spec.bpe.byte_fallback = model["byte_fallback"].boolean(false);
  spec.bpe.ignore_merges = model["ignore_merges"].boolean(false);
  spec.bpe.fuse_unknown = model["fuse_unk"].boolean(false);
  (void)model["vocab"].object();  // its entries are in document.vocab
  read_vocabulary(document, added, spec.bpe.byte_fallback, spec.vocabulary);
  if (!model["unk_token"].absent()) {
    spec.bpe.unknown = spec.vocabulary.find(model["unk_token"].string());
    if (spec.bpe.unknown < 0) model["unk_token"].expected("a token of the vocabulary");
    spec.vocabulary.set_kind(spec.bpe.unknown, TokenKind::unknown);
  }
  (void)model["merges"].array();  // its entries are in document.merges
  spec.bpe.merges.reserve(document.merges.size());
  for (const auto& [left, right] : document.merges) {
    add_merge(spec.bpe.merges, spec.vocabulary, document.text(left), document.text(right));
  }
}

void list_added_tokens(const std::vector<AddedToken>& added, TokenizerSpec& spec) {
  for (const AddedToken& entry : added) {
    SpecialToken token = entry.token;
    if (entry.normalized) token.text = spec.normalizer.apply(token.text);
    auto& always = entry.normalized ? spec.normalized_always : spec.raw_text_always;
    auto& all = entry.normalized ? spec.normalized_all : spec.raw_text_all;
    if (!entry.special) always.push_back(token);
    all.push_back(std::move(token));
  }
}

}  // namespace

TokenizerSpec read_tokenizer_json(std::string_view text, const std::string& name) {
  const TokenizerDocument document = parse_tokenizer_document(text, name);
  const JsonField root(document.rest, name);
  TokenizerSpec spec(name);
  spec.bpe.model = MergeModel::characters;
  const std::vector<AddedToken> added = read_added_tokens(root["added_tokens"]);
  read_model(document, root["model"], added, spec);
  read_normalizer(root["normalizer"], spec);
  read_pretokenizer(root["pre_tokenizer"], spec);
  check_decoder(root["decoder"]);
  read_post_processor(root["post_processor"], spec);
  list_added_tokens(added, spec);
  return spec;
}

}  // namespace sedpa
