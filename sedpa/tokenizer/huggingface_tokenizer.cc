#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sedpa/core/fail.h"
#include "sedpa/format/json.h"
#include "sedpa/format/mapped_file.h"
#include "sedpa/format/printable.h"
#include "sedpa/tokenizer/json_field.h"
#include "sedpa/tokenizer/readers.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

namespace {

/// A side file as JSON; null when it is absent.
nlohmann::json read_side_file(std::string_view text, const std::string& name) {
  return text.empty() ? nlohmann::json() : parse_json(text, name);
}

/// The begin or end token that the configuration names; `otherwise` when it names none.
std::int32_t configured_id(const TokenizerSpec& spec, std::string_view key, const JsonField& config,
                           const JsonField& map, std::int32_t otherwise) {
  for (const JsonField& file : {config, map}) {
    const std::string text = file[key].token_text();
    if (text.empty()) continue;
    const std::int32_t id = spec.vocabulary.find(text);
    if (id < 0) file[key].expected("a token of the vocabulary");
    return id;
  }
  return otherwise;
}

/// Tokens that a fine-tune of a SentencePiece model lists beside it, ids continuing the model's.
void add_listed_tokens(const JsonField& list, TokenizerSpec& spec) {
  if (list.absent()) return;
  std::map<std::int64_t, JsonField> by_id;
  for (auto entry = list.object().begin(); entry != list.object().end(); ++entry) {
    const std::string& key = entry.key();
    const bool number =
        !key.empty() && key.size() <= 9 &&
        std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!number) list[key].expected("a token id as its name");
    by_id.emplace(std::stoll(key), list[key]);
  }
  for (const auto& [id, entry] : by_id) {
    const std::string& text = entry["content"].string();
    const bool special = entry["special"].boolean(false);
    if (id < spec.vocabulary.size()) continue;  // the model's own
    if (id > spec.vocabulary.size()) {
      fail("{}: expected the next token's id, {}", entry.where(), spec.vocabulary.size());
    }
    spec.vocabulary.add(text, special ? TokenKind::control : TokenKind::user_defined);
    spec.bpe.scores.push_back(0);
    const SpecialToken token{.text = text,
                             .id = static_cast<std::int32_t>(id),
                             .strip_left = entry["lstrip"].boolean(false),
                             .strip_right = entry["rstrip"].boolean(false),
                             .whole_word = entry["single_word"].boolean(false)};
    if (!special) spec.raw_text_always.push_back(token);
    spec.raw_text_all.push_back(token);
  }
}

std::string read_chat_template(const JsonField& field) {
  if (field.absent() || field.is_string()) return field.absent() ? "" : field.string();
  // Several, by name.
  for (std::size_t i = 0; i < field.array().size(); ++i) {
    if (field[i]["name"].string() == "default") return field[i]["template"].string();
  }
  return "";
}

void read_generation_config(const JsonField& config, TokenizerSpec& spec) {
  const JsonField eos = config["eos_token_id"];
  if (eos.absent()) return;
  const std::size_t count = eos.is_array() ? eos.array().size() : 1;
  for (std::size_t i = 0; i < count; ++i) {
    const JsonField entry = eos.is_array() ? eos[i] : eos;
    const std::int64_t id = entry.integer();
    if (!spec.vocabulary.contains(id)) entry.expected("a token id of the vocabulary");
    spec.end_tokens.push_back(static_cast<std::int32_t>(id));
  }
  if (spec.eos < 0 && !spec.end_tokens.empty()) spec.eos = spec.end_tokens.front();
}

/// Whether a token is added where the tokenizer's own file says `otherwise`.
bool configured_add(const JsonField& field, bool otherwise, std::int32_t id) {
  const bool wanted = field.boolean(otherwise);
  if (wanted && id < 0 && !field.absent()) field.expected("false: no such token is named");
  return wanted && id >= 0;
}

}  // namespace

Tokenizer Tokenizer::from_memory(const HuggingfaceFiles& files, const std::string& name) {
  const auto named = [&](std::string_view file) { return name + std::string(file); };
  const bool fast = !files.tokenizer_json.empty();
  if (!fast && files.tokenizer_model.empty()) {
    fail("{}: neither tokenizer.json nor tokenizer.model", name);
  }
  TokenizerSpec spec =
      fast ? read_tokenizer_json(files.tokenizer_json, named("tokenizer.json"))
           : read_sentencepiece_model(files.tokenizer_model, named("tokenizer.model"));

  const nlohmann::json config_json =
      read_side_file(files.tokenizer_config_json, named("tokenizer_config.json"));
  const nlohmann::json map_json =
      read_side_file(files.special_tokens_map_json, named("special_tokens_map.json"));
  const nlohmann::json generation_json =
      read_side_file(files.generation_config_json, named("generation_config.json"));
  const JsonField config(config_json, named("tokenizer_config.json"));
  const JsonField map(map_json, named("special_tokens_map.json"));

  if (!fast) add_listed_tokens(config["added_tokens_decoder"], spec);
  const std::int32_t template_bos = spec.add_bos ? spec.bos : -1;
  const std::int32_t template_eos = spec.add_eos ? spec.eos : -1;
  spec.bos = configured_id(spec, "bos_token", config, map, spec.bos);
  spec.eos = configured_id(spec, "eos_token", config, map, spec.eos);
  read_generation_config(JsonField(generation_json, named("generation_config.json")), spec);

  // transformers' Llama tokenizers add <s> unless told otherwise, whatever the template says.
  const bool llama = !config["tokenizer_class"].absent() &&
                     config["tokenizer_class"].string().starts_with("LlamaTokenizer");
  spec.add_bos = configured_add(config["add_bos_token"], spec.add_bos || llama || !fast, spec.bos);
  spec.add_eos = configured_add(config["add_eos_token"], spec.add_eos, spec.eos);
  // What the template adds is what is added, should the configuration name another token.
  if (spec.add_bos && template_bos >= 0) spec.bos = template_bos;
  if (spec.add_eos && template_eos >= 0) spec.eos = template_eos;

  spec.chat_template = files.chat_template.empty() ? read_chat_template(config["chat_template"])
                                                   : std::string(files.chat_template);
  return build(std::move(spec));
}

Tokenizer Tokenizer::from_huggingface(const std::string& directory) {
  const std::filesystem::path root(directory);
  std::error_code error;
  if (!std::filesystem::is_directory(root, error)) {
    fail("{}: not a directory", printable(directory));
  }
  std::vector<MappedFile> open;
  open.reserve(6);
  const auto text = [&](const char* file) -> std::string_view {
    const std::filesystem::path path = root / file;
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return {};
    open.push_back(MappedFile::open(path.string()));
    const auto bytes = open.back().bytes();
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  };
  HuggingfaceFiles files;
  files.tokenizer_json = text("tokenizer.json");
  if (files.tokenizer_json.empty()) files.tokenizer_model = text("tokenizer.model");
  files.tokenizer_config_json = text("tokenizer_config.json");
  files.special_tokens_map_json = text("special_tokens_map.json");
  files.generation_config_json = text("generation_config.json");
  files.chat_template = text("chat_template.jinja");
  return from_memory(files, (root / "").string());
}

}  // namespace sedpa
