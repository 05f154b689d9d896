// What the subcommands print when all is well.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "sedpa/format/gguf.h"
#include "sedpa/tokenizer/tokenizer.h"
#include "tests/cli/run.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class Commands : public testing::Test {
 protected:
  Commands() {
    write_tiny_model(model_, {.layers = 3});
    write_tiny_pattern(pattern_, 3, 2);
  }
  // Runs it; every line of stdout is a JSON object.
  static std::vector<json> run_json(Words words, const std::string& input = "") {
    words.emplace_back("--json");
    const Outcome outcome = run_sedpa(words, input);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    std::vector<json> objects;
    std::istringstream lines(outcome.out);
    for (std::string line; std::getline(lines, line);) {
      objects.push_back(json::parse(line, nullptr, /*allow_exceptions=*/false));
      EXPECT_TRUE(objects.back().is_object()) << line;
    }
    return objects;
  }
  static json run_one(const Words& words, const std::string& input = "") {
    const std::vector<json> objects = run_json(words, input);
    EXPECT_EQ(objects.size(), 1u);
    return objects.empty() ? json::object() : objects.front();
  }

  TempDir folder_;
  const std::string model_ = folder_ / "tiny.gguf";
  const std::string pattern_ = folder_ / "pattern";
};

TEST_F(Commands, HelpHasAnExample) {
  for (const char* command : {"info", "tokenize", "generate", "bench"}) {
    const Outcome outcome = run_sedpa({command, "--help"});
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_NE(outcome.out.find("sedpa " + std::string(command)), std::string::npos) << outcome.out;
    EXPECT_NE(outcome.out.find("Example"), std::string::npos) << outcome.out;
    EXPECT_EQ(outcome.error, "");
  }
  EXPECT_EQ(run_sedpa({"--version"}).exit_code, 0);
}

TEST_F(Commands, TokenizeGivesTheTokenizersIds) {
  const std::string text = "What is in the book?\n";
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile::open(model_));
  const std::string expected =
      fmt::format("{}", fmt::join(tokenizer.encode(text, true, true), ","));
  EXPECT_EQ(run_sedpa({"tokenize", "-m", model_, "-p", text}).out, expected + "\n");
  EXPECT_EQ(run_sedpa({"tokenize", "-m", model_, "-f", "-"}, text).out, expected + "\n");
  EXPECT_EQ(run_sedpa({"tokenize", "-m", model_, "-f", folder_.put("text", text)}).out,
            expected + "\n");
  EXPECT_EQ(run_sedpa({"tokenize", "-m", model_, "-p", expected, "--decode"}).out, text);
  EXPECT_EQ(run_one({"tokenize", "-m", model_, "-p", text})["token_ids"].dump(),
            "[" + expected + "]");
}

TEST_F(Commands, TokenizeNeedsNoWeights) {
  const std::string path = folder_ / "vocabulary.gguf";
  write_tiny_vocabulary(path);
  EXPECT_EQ(run_sedpa({"tokenize", "-m", path, "-p", "A\xff"}).out, "65,255\n");  // not UTF-8
}

TEST_F(Commands, InfoPlansWhatGenerateAllocates) {
  const Words settings = {"-m",   model_, "--context", "77", "--pattern", pattern_,
                          "--kv", "q8",   "--chunk",   "16", "--threads", "1"};
  Words info = {"info"};
  info.insert(info.end(), settings.begin(), settings.end());
  Words generate = {"generate", "-p", "Hello", "-n", "3"};
  generate.insert(generate.end(), settings.begin(), settings.end());
  const json planned = run_one(info);
  const json used = run_one(generate);
  for (const char* key : {"weight_bytes", "kv_bytes", "scratch_bytes", "planned_bytes", "sparsity",
                          "sink", "recent", "context", "kv_dtype", "device", "threads"}) {
    EXPECT_EQ(planned[key], used[key]) << key;
  }
  // The formula: 3 full heads of 77 rows, 3 of 4 + 8; keys and values of 8 codes and one scale.
  EXPECT_EQ(planned["kv_bytes"], (3 * 77 + 3 * 12) * 2 * (8 + 2));
  EXPECT_EQ(planned["layers"], 3);
  EXPECT_EQ(planned["architecture"], "llama");
  EXPECT_EQ(planned["trained_context"], 128);
  EXPECT_EQ(planned["tensor_types"]["f32"]["tensors"], 3 + 3 * 9);
  EXPECT_EQ(planned["tokenizer"]["vocabulary"], kTinyVocabulary);
  EXPECT_EQ(planned["tokenizer"]["chat_template"], "chatml");
}

TEST_F(Commands, GenerateReportsEverything) {
  const json report = run_one(
      {"generate", "-m", model_, "-p", "Hello", "-n", "6", "--ignore-eos", "--threads", "1"});
  for (const char* key : {"model",
                          "device",
                          "threads",
                          "prompt_tokens",
                          "generated_tokens",
                          "sparsity",
                          "sink",
                          "recent",
                          "retrieval_window",
                          "kv_dtype",
                          "prefill_seconds",
                          "prefill_tokens_per_second",
                          "decode_seconds",
                          "decode_tokens_per_second",
                          "decode_bytes_per_token",
                          "weight_bytes",
                          "kv_bytes",
                          "scratch_bytes",
                          "planned_bytes",
                          "peak_bytes",
                          "session_tokens",
                          "stop_reason",
                          "text",
                          "token_ids"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  EXPECT_EQ(report["prompt_tokens"], 5);
  EXPECT_EQ(report["generated_tokens"], 6);
  EXPECT_EQ(report["token_ids"].size(), 6u);
  EXPECT_EQ(report["stop_reason"], "max_tokens");
  EXPECT_GT(report["peak_bytes"], report["weight_bytes"]);
}

TEST_F(Commands, GeneratePrintsTheTextOnly) {
  const Words words = {"generate", "-m", model_, "-p", "Hello", "-n", "8", "--ignore-eos"};
  const Outcome plain = run_sedpa(words);
  EXPECT_EQ(plain.exit_code, 0);
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile::open(model_));
  const auto ids = run_one(words)["token_ids"].get<std::vector<std::int32_t>>();
  EXPECT_EQ(plain.out, tokenizer.decode(ids));
}

TEST_F(Commands, GenerateSamplesByTheSeed) {
  const auto run = [&](const char* seed) {
    return run_one({"generate", "-m", model_, "-p", "Hello", "-n", "12", "--ignore-eos", "--temp",
                    "2", "--top-k", "0", "--seed", seed})["token_ids"];
  };
  EXPECT_EQ(run("1"), run("1"));
  EXPECT_NE(run("1"), run("2"));
}

TEST_F(Commands, ALongerContextThanTrainedIsNoted) {
  const Outcome outcome = run_sedpa(
      {"generate", "-m", model_, "-p", std::string(150, 'x'), "-n", "2", "--context", "160"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_NE(outcome.error.find("note: "), std::string::npos);
  EXPECT_NE(outcome.error.find("160"), std::string::npos);
  EXPECT_NE(outcome.error.find("128"), std::string::npos);
}

TEST_F(Commands, AnAdapterStretchesTheContext) {
  const std::string adapter = folder_ / "adapter.gguf";
  write_tiny_adapter(adapter, {.layers = 3}, 2, 256);
  const Outcome outcome = run_sedpa(
      {"generate", "-m", model_, "--lora", adapter, "-p", std::string(150, 'x'), "-n", "2"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_NE(outcome.error.find("256"), std::string::npos);
}

// A document read once and asked often answers as one that is read each time.
TEST_F(Commands, SessionsSaveADocument) {
  const std::string document = folder_.put("book", "It was the best of times, the worst of times.");
  const std::string session = folder_ / "book.session";
  for (const bool sparse : {false, true}) {
    std::filesystem::remove(session);
    Words base = {"generate",     "-m",        model_, "-f",   document, "-n",        "10",
                  "--ignore-eos", "--compute", "f32",  "--kv", "f32",    "--context", "120"};
    if (sparse) base.insert(base.end(), {"--pattern", pattern_});
    const auto ask = [&](const char* question, bool saved) {
      Words words = base;
      words.insert(words.end(), {"-p", question});
      if (saved) words.insert(words.end(), {"--session", session});
      return run_one(words);
    };
    for (const char* question : {"\nWhen?", " Who?", "\n\nWhere in the town?"}) {
      const bool first = !std::filesystem::exists(session);
      const json with = ask(question, true);
      const json without = ask(question, false);
      EXPECT_EQ(with["token_ids"], without["token_ids"]) << question;
      EXPECT_EQ(with["prompt_tokens"], without["prompt_tokens"]);
      EXPECT_EQ(with["session_tokens"].get<int>() == 0, first);
    }
    // Only the document is in the file: as many tokens as were taken up the second time.
    const json read = ask("\nWhen?", true);
    Words alone = base;
    alone.insert(alone.end(), {"--session", session});
    const json only = run_one(alone);
    EXPECT_EQ(only["session_tokens"], read["session_tokens"]);
    EXPECT_EQ(only["prompt_tokens"], only["session_tokens"]);
    EXPECT_EQ(only["prefill_seconds"], 0);
  }
}

TEST_F(Commands, ChatKeepsTheConversationInTheCache) {
  const std::vector<json> turns = run_json(
      {"generate", "-m", model_, "--chat", "--system", "Be brief.", "-n", "5", "--ignore-eos"},
      "Hello\n\nAnd then?\n");
  ASSERT_EQ(turns.size(), 2u);
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile::open(model_));
  const auto count = [&](const char* text) { return tokenizer.encode(text, false, true).size(); };
  EXPECT_EQ(turns[0]["prompt_tokens"],
            count("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
                  "<|im_start|>assistant\n"));
  // The second turn reads only what is new: the last token, the end of the answer, the question.
  EXPECT_EQ(
      turns[1]["prompt_tokens"],
      1 + count("<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n"));
}

TEST_F(Commands, ChatAboutADocument) {
  const std::string document = folder_.put("book", "It was.");
  const Words words = {"generate", "-m", model_,         "--chat",    "-f",         document,
                       "-n",       "3",  "--ignore-eos", "--session", folder_ / "s"};
  const std::vector<json> first = run_json(words, "Who?\n");
  const std::vector<json> second = run_json(words, "Who?\n");
  ASSERT_EQ(first.size(), 1u);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(first[0]["token_ids"], second[0]["token_ids"]);
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile::open(model_));
  EXPECT_EQ(second[0]["session_tokens"],
            tokenizer.encode("<|im_start|>user\nIt was.\n\n", false, true).size());
}

TEST_F(Commands, BenchSetsFiguresBesideTheirFloors) {
  const std::vector<json> rows =
      run_json({"bench", "-m", model_, "--depth", "0,40", "--prompt", "16", "--gen", "4",
                "--pattern", pattern_, "--repeat", "2", "--threads", "1"});
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0]["depth"], 0);
  EXPECT_EQ(rows[1]["depth"], 40);
  for (const json& row : rows) {
    for (const char* key :
         {"prefill_seconds", "prefill_tokens_per_second", "prefill_flops_per_second",
          "prefill_ceiling_share", "decode_seconds", "decode_tokens_per_second",
          "decode_bytes_per_token", "decode_floor_ratio", "read_bytes_per_second", "peak_bytes"}) {
      EXPECT_GT(row[key].get<double>(), 0) << key;
    }
    EXPECT_LE(row["prefill_seconds_min"], row["prefill_seconds"]);
    EXPECT_LE(row["decode_seconds"], row["decode_seconds_max"]);
  }
  EXPECT_GT(rows[1]["decode_bytes_per_token"], rows[0]["decode_bytes_per_token"]);
}

}  // namespace
}  // namespace sedpa::test
