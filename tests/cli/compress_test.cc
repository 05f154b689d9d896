// sedpa compress, as a user sees it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/cli/run.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

const TinyModel kModel{
    .layers = 2, .width = 64, .query_heads = 4, .kv_heads = 4, .head_dim = 16, .context = 4096};

class CompressCommand : public testing::Test {
 protected:
  CompressCommand() {
    write_tiny_model(model_, kModel);
    std::ofstream text(text_);
    for (int i = 0; i < 1500; ++i) text << "The snow fell all night, and nobody came.\n\n";
  }

  [[nodiscard]] Words command(const std::string& output, const Words& more = {}) const {
    // A byte is a token of this model.
    Words words = {"compress", "-m",        model_, "-o",        output, "--text",
                   text_,      "--context", "2048", "--threads", "2",    "--calibration-tokens",
                   "8192"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static json run(Words words) {
    words.emplace_back("--json");
    const Outcome outcome = run_sedpa(words);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    return json::parse(outcome.out);
  }

  TempDir folder_;
  std::string model_ = folder_ / "model.gguf";
  std::string text_ = folder_ / "text.txt";
  std::string output_ = folder_ / "small.gguf";
};

TEST_F(CompressCommand, WritesAModelThatEveryCommandRuns) {
  const json report = run(command(output_, {"--attention-parameters", "-25%"}));
  EXPECT_LE(report["attention_parameters_change"], -0.25);
  EXPECT_LT(report["parameters"], report["parameters_before"]);
  const json info = run({"info", "-m", output_, "--context", "64"});
  EXPECT_EQ(info["parameters"], report["parameters"]);
  EXPECT_EQ(info["attention_parameters"], report["attention_parameters"]);
  EXPECT_GT(info["low_rank_matrices"], 0);
  EXPECT_EQ(info["max_rank"] > 0, true);
  EXPECT_EQ(info["file_bytes"], std::filesystem::file_size(output_));
  const json words = run({"generate", "-m", output_, "-p", "The snow", "-n", "4"});
  EXPECT_EQ(words["generated_tokens"].is_number(), true);
  expect_refusal({"compress", "-m", output_, "-o", folder_ / "twice.gguf", "--text", text_,
                  "--context", "2048"},
                 1, {"is compressed already"});
}

TEST_F(CompressCommand, NotesASequenceBeyondTheTrainedContext) {
  for (const auto& [context, notes] : {std::pair{"4096", 0}, {"4100", 1}}) {
    const Outcome outcome =
        run_sedpa({"compress", "-m", model_, "-o", folder_ / fmt::format("{}.gguf", context),
                   "--text", text_, "--context", context, "--calibration-tokens", "8192"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    EXPECT_EQ(outcome.error_lines(), notes) << outcome.error;
    EXPECT_EQ(outcome.error.find("beyond the 4096 that") != std::string::npos, notes > 0);
  }
}

TEST_F(CompressCommand, GoesByAPatternAsPublished) {
  const std::string pattern = folder_ / "pattern";
  write_tiny_pattern(pattern, kModel.layers, kModel.kv_heads);
  const json report = run(command(
      output_, {"--recipe", "paper", "--pattern", pattern, "--attention-parameters", "-20%"}));
  EXPECT_EQ(report["recipe"], "paper");
  EXPECT_LE(report["attention_parameters_change"], -0.2);
  const std::string other = folder_ / "other";
  write_tiny_pattern(other, kModel.layers + 1, kModel.kv_heads);
  expect_refusal(command(folder_ / "o.gguf", {"--recipe", "paper", "--pattern", other}), 1,
                 {"3", "2"});
}

TEST_F(CompressCommand, MakesHeadsThin) {
  const TinyModel wide{
      .layers = 2, .width = 64, .query_heads = 4, .kv_heads = 2, .head_dim = 32, .context = 4096};
  write_tiny_model(model_, wide);
  const std::string pattern = folder_ / "pattern";
  write_tiny_pattern(pattern, wide.layers, wide.kv_heads);
  // Of four heads the two that retrieve.
  const json report =
      run(command(output_, {"--thin-heads", "-25%", "--pattern", pattern, "--sparsity", "0.5"}));
  EXPECT_EQ(report["thin_kv_bytes_before"], 2 * 2 * 64);
  EXPECT_LE(report["thin_kv_bytes_change"], -0.25);
  EXPECT_EQ(report["key_widths"].size(), 4u);
  EXPECT_EQ(report["ranks"], json::array());
  EXPECT_EQ(report["attention_parameters"] < report["attention_parameters_before"], true);
  const auto kv_bytes = [&](const std::string& model) {
    // Without the pattern a layer's heads are one class, whose rows are as wide as the widest.
    return run({"info", "-m", model, "--context", "64", "--pattern", pattern})["kv_bytes"]
        .get<std::int64_t>();
  };
  const std::int64_t saved = report["thin_kv_bytes_before"].get<std::int64_t>() -
                             report["thin_kv_bytes"].get<std::int64_t>();
  EXPECT_EQ(kv_bytes(model_) - kv_bytes(output_), 64 * saved);
  const json words = run({"generate", "-m", output_, "-p", "The snow", "-n", "4"});
  EXPECT_EQ(words["generated_tokens"].is_number(), true);
  expect_refusal({"compress", "-m", output_, "-o", folder_ / "twice.gguf", "--text", text_,
                  "--context", "2048", "--thin-heads", "-25%"},
                 1, {"has thin heads already"});

  const std::string both = folder_ / "both.gguf";
  const json second =
      run(command(both, {"--thin-heads", "-25%", "--attention-parameters", "-10%"}));
  EXPECT_EQ(second["thin_kv_bytes_before"], 4 * 2 * 64);
  EXPECT_EQ(second["ranks"].size(), 8u);
  EXPECT_GT(run({"info", "-m", both})["low_rank_matrices"], 0);
}

TEST_F(CompressCommand, WarnsOfAShortText) {
  const std::string wide = folder_ / "wide.gguf";
  write_tiny_model(wide, {.layers = 1,
                          .width = 256,
                          .query_heads = 4,
                          .kv_heads = 4,
                          .head_dim = 64,
                          .context = 1024});
  const std::string few = folder_ / "few.txt";
  std::ofstream(few) << std::string(400, 'a');
  const Outcome outcome = run_sedpa({"compress", "-m", wide, "-o", output_, "--text", few});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_NE(outcome.error.find("tokens of calibration text are fewer than the 256 inputs"),
            std::string::npos)
      << outcome.error;
  std::ofstream(few) << "too short";
  expect_refusal({"compress", "-m", wide, "-o", output_, "--text", few}, 1, {few, "has 5 tokens"});
  expect_refusal({"compress", "-m", wide, "-o", output_, "--text", text_, "--context", "100000"}, 1,
                 {text_, "100000"});
}

TEST_F(CompressCommand, RefusesWhatMakesNoSense) {
  const auto bad = [&](const Words& more, std::initializer_list<std::string_view> parts) {
    expect_refusal(command(output_, more), 2, parts);
  };
  bad({"--attention-parameters", "25%"}, {"25%", "-25%"});
  bad({"--attention-parameters", "-100%"}, {"-100%"});
  bad({"--attention-parameters", "-25"}, {"-25"});
  bad({"--attention-parameters", "-25%", "--max-kl", "0.1"}, {"two budgets"});
  bad({"--max-kl", "-1"}, {"--max-kl"});
  bad({"--max-kl", "nan"}, {"--max-kl"});
  bad({"--recipe", "paper"}, {"--pattern"});
  bad({"--recipe", "paper", "--pattern", "p", "--max-kl", "0.1"}, {"--max-kl"});
  bad({"--recipe", "paper", "--pattern", "p", "--recent", "64"}, {"--recent"});
  bad({"--pattern", "p"}, {"calibrated"});
  bad({"--thin-heads", "-25%", "--recent", "64"}, {"--pattern"});
  bad({"--thin-heads", "25%"}, {"--thin-heads is '25%'", "-25%"});
  bad({"--thin-heads", "-100%"}, {"-100%"});
  bad({"--thin-heads", "some"}, {"'some'"});
  bad({"--thin-heads", "-25%", "--recipe", "paper", "--pattern", "p"}, {"--recipe calibrated"});
  bad({"--thin-heads", "-25%", "--max-kl", "0.1"}, {"--max-kl"});
  bad({"--thin-heads", "-25%", "--sparsity", "0.5"}, {"--pattern"});
  bad({"--type", "q4_0"}, {"--type"});
  bad({"--rope-freq-base", "1e6"}, {"--rope-freq-base"});
  expect_refusal(command(output_, {"--attention-parameters", "-80%"}), 1, {"at most"});
  expect_refusal(command(output_, {"--thin-heads", "-25%"}), 1, {"heads of 16 numbers"});
  expect_refusal(command(output_, {"--memory-limit", "1M"}), 1,
                 {"--memory-limit", "--calibration-tokens"});
  expect_refusal(command(model_), 1, {"is the model itself"});
  std::filesystem::create_directory(folder_ / "there");
  expect_refusal(command(folder_ / "there"), 1, {"there: is a directory", "expected"});
  expect_refusal(command(folder_ / "there/"), 1, {"there/: is a directory", "expected"});
  expect_refusal(command(folder_ / "new/"), 1, {"new/: cannot be written"});
  expect_refusal(command(folder_ / "no/such.gguf"), 1, {"such.gguf"});
  EXPECT_FALSE(std::filesystem::exists(output_));
}

}  // namespace
}  // namespace sedpa::test
