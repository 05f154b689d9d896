#include "sedpa/format/attention_pattern.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "tests/format/support.h"

namespace sedpa {
namespace {

using test::expect_error;

constexpr std::string_view kConfig = R"({"sink_size": 128, "recent_size": 256})";

AttentionPattern parse(std::string_view tsv, std::string_view config = kConfig) {
  return parse_attention_pattern(tsv, config, "dir");
}

// What numpy makes of the published files: numpy.clip(numpy.loadtxt(file, delimiter="\t"), 0, 1).
struct Published {
  const char* folder;
  int kv_heads;
  double sum;
  int zeros;
  int above_half;
};

class PublishedPatterns : public ::testing::TestWithParam<Published> {};

TEST_P(PublishedPatterns, LoadAsInTheReference) {
  const AttentionPattern pattern =
      load_attention_pattern(std::string(SEDPA_SOURCE_DIR "/attn_patterns/") + GetParam().folder);
  EXPECT_EQ(pattern.layers, 32);
  EXPECT_EQ(pattern.kv_heads, GetParam().kv_heads);
  EXPECT_EQ(pattern.sink_size, 128);
  EXPECT_EQ(pattern.recent_size, 256);
  const double sum = std::accumulate(pattern.gates.begin(), pattern.gates.end(), 0.0);
  EXPECT_NEAR(sum, GetParam().sum, 1e-9);
  EXPECT_EQ(std::ranges::count(pattern.gates, 0.0), GetParam().zeros);
  EXPECT_EQ(std::ranges::count_if(pattern.gates, [](double gate) { return gate > 0.5; }),
            GetParam().above_half);
}

INSTANTIATE_TEST_SUITE_P(
    All, PublishedPatterns,
    ::testing::Values(
        Published{"Llama-2-7B-32K-Instruct/lr=0.02-reg=0.05-ctx=1000_32000-multi_passkey10", 32,
                  429.0398420797437, 274, 444},
        Published{"Llama-3-8B-Instruct-Gradient-1048k/"
                  "lr=0.02-reg=0.05-ctx=1000_32000-multi_passkey10",
                  8, 196.84715449810028, 18, 207},
        Published{"Llama-3-8B-Instruct-Gradient-4194k/"
                  "lr=0.02-reg=0.05-ctx=1000_32000-multi_passkey10",
                  8, 198.37471508979797, 15, 208},
        Published{"Meta-Llama-3.1-8B-Instruct/lr=0.02-reg=0.05-ctx=1000_128000-multi_passkey10", 8,
                  218.06610488891602, 7, 234},
        Published{"Mistral-7B-Instruct-v0.2/lr=0.02-reg=0.05-ctx=1000_32000-multi_passkey10", 8,
                  236.30564260482788, 5, 244},
        Published{"Mistral-7B-Instruct-v0.3/lr=0.02-reg=0.05-ctx=1000_32000-multi_passkey10", 8,
                  231.65757369995117, 8, 240}),
    [](const ::testing::TestParamInfo<Published>& published) {
      std::string name = published.param.folder;
      name = name.substr(0, name.find('/'));
      std::ranges::replace_if(
          name, [](char c) { return !std::isalnum(c); }, '_');
      return name;
    });

TEST(AttentionPattern, RowsColumnsAndClipping) {
  const AttentionPattern pattern = parse("-1e-4\t0.5\t1.0001\n1e-3\t 1 \t-0\r\n\n");
  EXPECT_EQ(pattern.layers, 2);
  EXPECT_EQ(pattern.kv_heads, 3);
  EXPECT_EQ(pattern.gates, (std::vector<double>{0, 0.5, 1, 0.001, 1, 0}));
  EXPECT_EQ(pattern.gate(1, 0), 0.001);
  EXPECT_FALSE(std::signbit(pattern.gate(1, 2)));
  EXPECT_EQ(pattern.config_json, kConfig);
  EXPECT_EQ(parse("1").kv_heads, 1);
}

TEST(AttentionPattern, BadTables) {
  const auto refused = [](std::string_view tsv, std::initializer_list<std::string_view> parts) {
    SCOPED_TRACE(tsv.substr(0, 100));
    expect_error([&] { (void)parse(tsv); }, {"dir/full_attention_heads.tsv: "});
    expect_error([&] { (void)parse(tsv); }, parts);
  };
  refused("", {"empty"});
  refused("\n\n", {"empty"});
  refused("1\t0\n1\n", {"line 2 has 1 numbers, expected 2"});
  refused("1\n1\t0\n", {"line 2 has 2 numbers, expected 1"});
  refused("1\t\n", {"line 1, column 2"});
  refused("\t1\n", {"line 1, column 1"});
  refused("1\n\n1\n", {"line 2, column 1"});
  refused("0.5\tnan\n", {"line 1, column 2", "nan", "finite"});
  refused("inf\n", {"inf", "finite"});
  refused("-inf\n", {"-inf"});
  refused("1e999\n", {"1e999"});
  refused("0.5 0.5\n", {"0.5 0.5"});
  refused("0.5,0.5\n", {"0.5,0.5"});
  refused("0.5x\n", {"0.5x"});
  refused("\xff\xfe\n", {"\\xff\\xfe"});
  refused(std::string_view("0.5\0", 4), {"0.5\\x00"});
  refused(std::string((4 << 20) + 1, '1'), {"at most 4194304"});
}

TEST(AttentionPattern, BadConfigs) {
  const auto refused = [](std::string_view config, std::initializer_list<std::string_view> parts) {
    SCOPED_TRACE(config);
    expect_error([&] { (void)parse("1\n", config); }, {"dir/config.json: "});
    expect_error([&] { (void)parse("1\n", config); }, parts);
  };
  refused("", {"not valid JSON"});
  refused("[]", {"array", "object"});
  refused("{}", {"no sink_size"});
  refused(R"({"sink_size": 1})", {"no recent_size"});
  refused(R"({"sink_size": null, "recent_size": 1})", {"sink_size", "null"});
  refused(R"({"sink_size": "1", "recent_size": 1})", {"sink_size", "string"});
  refused(R"({"sink_size": true, "recent_size": 1})", {"sink_size", "boolean"});
  refused(R"({"sink_size": 1.0, "recent_size": 1})", {"sink_size", "integer"});
  refused(R"({"sink_size": -1, "recent_size": 1})", {"sink_size is -1"});
  refused(R"({"sink_size": 0, "recent_size": 0})", {"recent_size is 0", "1 to"});
  refused(R"({"sink_size": 0, "recent_size": 2147483648})", {"recent_size is 2147483648"});
  refused(R"({"sink_size": 18446744073709551615, "recent_size": 1})", {"18446744073709551615"});
}

TEST(AttentionPattern, SavedPatternsReadBack) {
  const test::TempDir dir;
  const std::string folder = dir / "a/b";
  const AttentionPattern pattern{.layers = 2,
                                 .kv_heads = 2,
                                 .gates = {0.1, 1.0 / 3.0, 5e-324, 1},
                                 .sink_size = 0,
                                 .recent_size = 7,
                                 .config_json = ""};
  save_attention_pattern(folder, pattern,
                         R"({"method": "output-error", "sink_size": 99, "z": [1]})");
  const AttentionPattern read = load_attention_pattern(folder);
  EXPECT_EQ(read.gates, pattern.gates);
  EXPECT_EQ(read.layers, 2);
  EXPECT_EQ(read.kv_heads, 2);
  EXPECT_EQ(read.sink_size, 0);
  EXPECT_EQ(read.recent_size, 7);
  const auto config = nlohmann::json::parse(read.config_json);
  EXPECT_EQ(config["method"], "output-error");
  EXPECT_EQ(config["z"], nlohmann::json::array({1}));
  save_attention_pattern(folder, pattern);  // over the first
  EXPECT_FALSE(nlohmann::json::parse(load_attention_pattern(folder).config_json).contains("z"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 2);
}

TEST(AttentionPattern, ScoresOfQueryHeadsGoWithTheirPattern) {
  const test::TempDir dir;
  AttentionPattern pattern{.layers = 2, .kv_heads = 1, .gates = {0, 1}, .recent_size = 1};
  pattern.query_heads = 3;
  pattern.query_scores = {0.1, 2.5, 0, 1.0 / 3.0, 7, -4};
  save_attention_pattern(dir.path(), pattern);
  const AttentionPattern read = load_attention_pattern(dir.path());
  EXPECT_EQ(read.query_heads, 3);
  EXPECT_EQ(read.query_scores, pattern.query_scores);
  pattern.query_scores = {};
  save_attention_pattern(dir.path(), pattern);  // by another method: the first one's are gone
  EXPECT_TRUE(load_attention_pattern(dir.path()).query_scores.empty());
  dir.put("query_head_scores.tsv", "1\t2\n");
  expect_error([&] { (void)load_attention_pattern(dir.path()); },
               {"query_head_scores.tsv", "2 scores", "2 layers"});
  dir.put("query_head_scores.tsv", "1\tx\n1\t2\n");
  expect_error([&] { (void)load_attention_pattern(dir.path()); }, {"line 1, column 2"});
}

TEST(AttentionPattern, BadPatternsAreNotSaved) {
  const test::TempDir dir;
  const std::string folder = dir / "pattern";
  const AttentionPattern good{.layers = 1,
                              .kv_heads = 2,
                              .gates = {0, 1},
                              .sink_size = 1,
                              .recent_size = 1,
                              .config_json = ""};
  AttentionPattern bad = good;
  bad.gates.pop_back();
  expect_error([&] { save_attention_pattern(folder, bad); }, {folder, "1 gates"});
  bad = good;
  bad.gates[0] = 1.5;
  expect_error([&] { save_attention_pattern(folder, bad); }, {folder, "1.5"});
  bad = good;
  bad.recent_size = 0;
  expect_error([&] { save_attention_pattern(folder, bad); }, {folder, "window"});
  expect_error([&] { save_attention_pattern(folder, good, "[]"); }, {folder, "object"});
  expect_error([&] { save_attention_pattern(folder, good, "{"); }, {folder, "JSON"});
  EXPECT_FALSE(std::filesystem::exists(folder));
  dir.put("file", "x");
  expect_error([&] { save_attention_pattern(dir / "file/pattern", good); }, {"directory"});
}

TEST(AttentionPattern, MissingFiles) {
  const test::TempDir dir;
  expect_error([&] { (void)load_attention_pattern(dir.path()); },
               {"full_attention_heads.tsv", "No such file"});
  dir.put("full_attention_heads.tsv", "1\n");
  expect_error([&] { (void)load_attention_pattern(dir.path()); }, {"config.json", "No such file"});
}

}  // namespace
}  // namespace sedpa
