// Files that lie: each gives one line that names the file and the field, never a crash.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sedpa/core/error.h"
#include "sedpa/format/gguf_writer.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {
namespace {

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void expect_error(const std::function<void()>& action, const std::vector<std::string>& parts) {
  const std::string error = error_of(action);
  for (const std::string& part : parts) {
    EXPECT_NE(error.find(part), std::string::npos) << error << "\nlacks: " << part;
  }
  EXPECT_EQ(error.find('\n'), std::string::npos) << error;
}

// --- GGUF ---------------------------------------------------------------------------------------

/// A vocabulary of a few tokens, as the test wants it changed.
struct Gguf {
  std::string model = "gpt2";
  std::string pre = "gpt-2";
  std::vector<std::string> tokens = {"a", "b", "ab", "<|end|>"};
  std::vector<std::int64_t> kinds = {1, 1, 1, 3};
  std::vector<std::string> merges = {"a b"};
  std::vector<double> scores = {};
  std::function<void(GgufWriter&)> more = [](GgufWriter&) {};

  [[nodiscard]] Tokenizer read() const {
    GgufWriter writer;
    writer.add_string("tokenizer.ggml.model", model);
    if (!pre.empty()) writer.add_string("tokenizer.ggml.pre", pre);
    writer.add_strings("tokenizer.ggml.tokens", tokens);
    if (!kinds.empty()) writer.add_i32s("tokenizer.ggml.token_type", kinds);
    if (!merges.empty()) writer.add_strings("tokenizer.ggml.merges", merges);
    if (!scores.empty()) writer.add_f32s("tokenizer.ggml.scores", scores);
    more(writer);
    return Tokenizer::from_gguf(GgufFile::parse(writer.bytes(), "v.gguf"));
  }
  void expect(const std::vector<std::string>& parts) const {
    expect_error([&] { (void)read(); }, parts);
  }
};

TEST(HostileGguf, GoodOneIsRead) {
  const Tokenizer tokenizer = Gguf{}.read();
  EXPECT_EQ(tokenizer.encode("ab", false, false), std::vector<std::int32_t>{2});
  EXPECT_EQ(tokenizer.end_tokens(), std::vector<std::int32_t>{3});
}

TEST(HostileGguf, UnknownNamesListTheKnown) {
  Gguf{.model = "bert"}.expect({"v.gguf", "tokenizer.ggml.model", "\"bert\"", "gpt2", "llama"});
  Gguf{.pre = "gpt-9"}.expect({"tokenizer.ggml.pre", "\"gpt-9\"", "llama-bpe", "qwen2", "smollm"});
}

TEST(HostileGguf, Merges) {
  Gguf{.merges = {"a b", "ab a"}}.expect({"v.gguf", "merge 1", "\"aba\"", "not in the vocabulary"});
  Gguf{.merges = {"a c"}}.expect({"merge 0", "\"c\"", "not in the vocabulary"});
  Gguf{.merges = {"ab"}}.expect({"tokenizer.ggml.merges[0]", "\"ab\"", "two tokens"});
  Gguf{.merges = {"a "}}.expect({"tokenizer.ggml.merges[0]"});
  Gguf{.merges = {""}}.expect({"tokenizer.ggml.merges[0]"});
  Gguf{.merges = {}}.expect({"tokenizer.ggml.merges", "v.gguf"});
}

TEST(HostileGguf, Tokens) {
  Gguf{.tokens = {"a", "b", "ab", "a"}}.expect({"token 3 is a second \"a\"", "token 0"});
  Gguf{.kinds = {1, 1}}.expect({"token_type has 2 entries", "expected 4"});
  Gguf{.kinds = {1, 1, 1, 7}}.expect({"token_type[3] is 7", "expected 0 to 6"});
  Gguf{.kinds = {1, 1, 1, -1}}.expect({"token_type[3] is -1"});
  Gguf{.tokens = {}, .kinds = {}}.expect({"tokenizer.ggml.tokens"});
}

TEST(HostileGguf, Scores) {
  const Gguf llama{.model = "llama", .pre = ""};
  llama.expect({"v.gguf", "tokenizer.ggml.scores"});
  Gguf few = llama;
  few.scores = {0, 1};
  few.expect({"scores has 2 entries", "expected 4"});
  Gguf infinite = llama;
  infinite.scores = {0, 1, std::numeric_limits<double>::infinity(), 2};
  infinite.expect({"scores[2]", "finite"});
}

TEST(HostileGguf, Ids) {
  const auto with = [](const std::string& key, std::uint32_t id) {
    return Gguf{.more = [=](GgufWriter& writer) { writer.add_u32(key, id); }};
  };
  with("tokenizer.ggml.bos_token_id", 4).expect({"tokenizer.ggml.bos_token_id is 4", "below 4"});
  with("tokenizer.ggml.eot_token_id", 1u << 31).expect({"eot_token_id"});
  EXPECT_EQ(with("tokenizer.ggml.bos_token_id", ~0u).read().bos(), -1);
  Gguf{.more = [](GgufWriter& writer) {
    writer.add_bool("tokenizer.ggml.add_bos_token", true);
  }}.expect({"tokenizer.ggml.add_bos_token is true", "no such token"});
  Gguf{.more = [](GgufWriter& writer) {
    writer.add_string("tokenizer.ggml.bos_token_id", "1");
  }}.expect({"tokenizer.ggml.bos_token_id", "string"});
}

// --- tokenizer.json -----------------------------------------------------------------------------

nlohmann::json good_json() {
  return nlohmann::json::parse(R"({
    "added_tokens": [{"id": 3, "content": "<s>", "special": true, "normalized": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
  })");
}

Tokenizer read_json(const nlohmann::json& json, std::string_view config = "") {
  const std::string text = json.dump();
  return Tokenizer::from_memory({.tokenizer_json = text, .tokenizer_config_json = config}, "d/");
}

/// The good file with one value replaced.
void expect_json_error(const char* pointer, const nlohmann::json& value,
                       const std::vector<std::string>& parts) {
  nlohmann::json json = good_json();
  json[nlohmann::json::json_pointer(pointer)] = value;
  SCOPED_TRACE(json.dump());
  std::vector<std::string> all = parts;
  all.emplace_back("d/tokenizer.json");
  expect_error([&] { (void)read_json(json); }, all);
}

using Json = nlohmann::json;

TEST(HostileJson, GoodOneIsRead) {
  EXPECT_EQ(read_json(good_json()).encode("<s>ab", false, true), (std::vector<std::int32_t>{3, 2}));
}

TEST(HostileJson, NotJson) {
  const auto read = [](const std::string& text) {
    return [=] { (void)Tokenizer::from_memory({.tokenizer_json = text}, "d/"); };
  };
  expect_error(read("{\"model\": "), {"d/tokenizer.json", "not valid JSON"});
  expect_error(read("{\"model\": \"\xFF\"}"), {"not valid JSON"});
  expect_error(read(std::string(100000, '[')), {"d/tokenizer.json", "deeper"});
  expect_error(read("[]"), {"d/tokenizer.json", "expected an object"});
  expect_error(read("{}"), {"d/tokenizer.json", "model", "expected"});
  expect_error([] { (void)Tokenizer::from_memory({}, "d/"); },
               {"d/", "neither tokenizer.json nor tokenizer.model"});
}

TEST(HostileJson, Model) {
  expect_json_error("/model/type", "Unigram", {"model.type", "\"Unigram\"", "BPE"});
  expect_json_error("/model/vocab", Json::array(), {"model.vocab", "array", "object"});
  expect_json_error("/model/vocab/c", "x", {"model.vocab", "\"c\"", "token id"});
  expect_json_error("/model/vocab/c", -1, {"\"c\" has id -1"});
  expect_json_error("/model/vocab/c", 1u << 30, {"\"c\" has id 1073741824"});
  expect_json_error("/model/vocab/c", 18446744073709551615u, {"\"c\" has id"});
  expect_json_error("/model/vocab/c", 1, {"the same id 1"});
  expect_json_error("/model/merges/0", "a c", {"merge 0", "\"c\"", "not in the vocabulary"});
  expect_json_error("/model/merges/0", "ab", {"model.merges[0]", "two tokens"});
  expect_json_error("/model/merges/0", Json::array({"a"}), {"model.merges[0]"});
  expect_json_error("/model/merges", "a b", {"model.merges", "expected an array"});
  expect_json_error("/model/unk_token", "?", {"model.unk_token", "\"?\""});
  expect_json_error("/model/byte_fallback", 1, {"model.byte_fallback", "true or false"});
  expect_json_error("/model/end_of_word_suffix", "</w>", {"end_of_word_suffix", "\"</w>\""});
}

TEST(HostileJson, TokensTwice) {
  const std::string text = R"({"model": {"vocab": {"a": 0, "b": 1, "a": 2}, "merges": []}})";
  expect_error([&] { (void)Tokenizer::from_memory({.tokenizer_json = text}, "d/"); },
               {"d/tokenizer.json", "token 2 is a second \"a\"", "token 0"});
}

TEST(HostileJson, Steps) {
  expect_json_error("/normalizer", Json{{"type", "Precompiled"}},
                    {"normalizer.type", "\"Precompiled\"", "NFC"});
  expect_json_error("/normalizer", Json{{"type", "Prepend"}}, {"normalizer.prepend", "missing"});
  expect_json_error("/pre_tokenizer", Json{{"type", "BertPreTokenizer"}},
                    {"pre_tokenizer.type", "ByteLevel"});
  expect_json_error(
      "/pre_tokenizer",
      Json{{"type", "Split"}, {"pattern", {{"Regex", "(unclosed"}}}, {"behavior", "Isolated"}},
      {"pre_tokenizer.pattern", "\"(unclosed\"", "at byte"});
  expect_json_error(
      "/pre_tokenizer",
      Json{{"type", "Split"}, {"pattern", {{"Regex", "[a&&[b]]"}}}, {"behavior", "Isolated"}},
      {"pre_tokenizer.pattern", "&&"});
  expect_json_error(
      "/pre_tokenizer",
      Json{{"type", "Split"}, {"pattern", {{"String", "x"}}}, {"behavior", "Sideways"}},
      {"pre_tokenizer.behavior", "\"Sideways\"", "Isolated"});
  expect_json_error("/pre_tokenizer", Json{{"type", "Metaspace"}, {"replacement", "_"}},
                    {"pre_tokenizer.replacement", "\"_\""});
  expect_json_error("/decoder", Json{{"type", "WordPiece"}}, {"decoder.type", "\"WordPiece\""});
  expect_json_error("/post_processor", Json{{"type", "BertProcessing"}}, {"post_processor.type"});
}

TEST(HostileJson, AddedTokens) {
  expect_json_error("/added_tokens/0/id", 1, {"\"<s>\" has id 1", "\"b\""});
  expect_json_error("/added_tokens/0/id", 99999999, {"\"<s>\" has id 99999999"});
  expect_json_error("/added_tokens/0/content", nullptr, {"added_tokens[0].content", "a string"});
  expect_json_error("/added_tokens/0/lstrip", "no", {"added_tokens[0].lstrip", "true or false"});
}

TEST(HostileJson, Templates) {
  const auto with = [](const Json& single) {
    return Json{{"type", "TemplateProcessing"},
                {"single", single},
                {"special_tokens", {{"<s>", {{"ids", {3}}}}, {"far", {{"ids", {77}}}}}}};
  };
  const Json text = {{"Sequence", {{"id", "A"}}}};
  const auto token = [](const char* id) { return Json{{"SpecialToken", {{"id", id}}}}; };
  expect_json_error("/post_processor", with(Json::array({token("<s>"), token("<s>"), text})),
                    {"one token"});
  expect_json_error("/post_processor", with(Json::array({token("<s>")})), {"the text"});
  expect_json_error("/post_processor", with(Json::array({token("none"), text})),
                    {"special_tokens.none"});
  expect_json_error("/post_processor", with(Json::array({token("far"), text})),
                    {"ids[0]", "vocabulary"});
}

TEST(HostileJson, Configurations) {
  const auto with = [](const char* config) {
    return [=] { (void)read_json(good_json(), config); };
  };
  expect_error(with(R"({"bos_token": "<bos>"})"),
               {"d/tokenizer_config.json.bos_token", "\"<bos>\"", "vocabulary"});
  expect_error(with(R"({"add_bos_token": true})"), {"add_bos_token", "no such token"});
  expect_error(with(R"({"add_bos_token": "yes"})"), {"add_bos_token", "true or false"});
  expect_error(with(R"({"chat_template": 3})"), {"chat_template", "array"});
  expect_error(with("{"), {"d/tokenizer_config.json", "not valid JSON"});
}

// A pattern that backtracks without end on this text gives up, with an error.
TEST(HostileJson, CatastrophicPattern) {
  nlohmann::json json = good_json();
  json["pre_tokenizer"] = Json{
      {"type", "Split"}, {"pattern", {{"Regex", "(?:a|a|aa)+[^a]"}}}, {"behavior", "Isolated"}};
  const Tokenizer tokenizer = read_json(json);
  expect_error([&] { (void)tokenizer.encode(std::string(200, 'a'), false, false); },
               {"pattern", "limit"});
}

// --- tokenizer.model ----------------------------------------------------------------------------

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  bytes += static_cast<char>(value);
  return bytes;
}
std::string number(int field, std::uint64_t value) { return varint(field * 8u) + varint(value); }
std::string block(int field, const std::string& bytes) {
  return varint(field * 8u + 2) + varint(bytes.size()) + bytes;
}
std::string piece(const std::string& text, int kind,
                  const std::string& score = std::string(4, '\0')) {
  return block(1, block(1, text) + varint(2 * 8 + 5) + score + number(3, kind));
}
const std::string kPieces = piece("<unk>", 2) + piece("<s>", 3) + piece("</s>", 3) + piece("a", 1);
const std::string kTrainer = block(2, number(3, 2));
const std::string kNormalizer = block(3, block(1, "identity"));

void expect_model_error(const std::string& bytes, const std::vector<std::string>& parts) {
  std::vector<std::string> all = parts;
  all.emplace_back("d/tokenizer.model");
  expect_error([&] { (void)Tokenizer::from_memory({.tokenizer_model = bytes}, "d/"); }, all);
}

TEST(HostileSentencePiece, GoodOneIsRead) {
  const std::string bytes = kPieces + kTrainer + kNormalizer;
  const Tokenizer tokenizer = Tokenizer::from_memory({.tokenizer_model = bytes}, "d/");
  EXPECT_EQ(tokenizer.vocab_size(), 4);
  EXPECT_EQ(tokenizer.eos(), 2);
}

TEST(HostileSentencePiece, EveryTruncationIsSurvived) {
  const std::string bytes = kPieces + kTrainer + kNormalizer;
  int refused = 0;
  for (std::size_t size = 1; size < bytes.size(); ++size) {
    const std::string error = error_of([&] {
      (void)Tokenizer::from_memory({.tokenizer_model = std::string_view(bytes).substr(0, size)},
                                   "d/");
    });
    refused += error == "no error" ? 0 : 1;
  }
  EXPECT_GT(refused, 60);  // few cuts fall between messages and leave a model
}

TEST(HostileSentencePiece, Fields) {
  expect_model_error(kPieces + kTrainer + block(3, "\x0A\x7F"), {"truncated"});
  expect_model_error(std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 11),
                     {"longer than 64 bits"});
  expect_model_error("\x0B", {"wire type 3"});
  expect_model_error(number(1, 5), {"field 1 has wire type 0"});
  expect_model_error(kTrainer, {"no pieces"});
  expect_model_error(kPieces + kNormalizer, {"model type 1", "BPE"});
  expect_model_error(kPieces + block(2, number(3, 2) + number(40, 9)) + kNormalizer,
                     {"unk_id is 9"});
  expect_model_error(kPieces + kTrainer + block(3, block(1, "nmt_nfkc") + block(2, "map")),
                     {"\"nmt_nfkc\"", "identity"});
  expect_model_error(kPieces + piece("a", 1) + kTrainer, {"second \"a\""});
  expect_model_error(kPieces + piece("", 1) + kTrainer, {"is empty"});
  expect_model_error(kPieces + piece("b", 9) + kTrainer, {"type 9"});
  expect_model_error(kPieces + piece("b", 1, {"\0\0\xC0\x7F", 4}) + kTrainer, {"finite"});
}

}  // namespace
}  // namespace sedpa
