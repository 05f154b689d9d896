// `sedpa eval frontier`: a sweep of settings, taken up again, and what it concludes.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cli/run.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class FrontierCommand : public testing::Test {
 protected:
  FrontierCommand() {
    write_tiny_model(model_, {.layers = 2, .context = 1024});
    write_tiny_model(smaller_, {.layers = 2, .context = 1024, .dtype = Dtype::q8_0});
    write_tiny_pattern(pattern_, 2, 2);
    std::string text;
    for (int i = 0; i < 60; ++i) text += "Night " + std::to_string(i * i) + " was cold.\n\n";
    text_ = folder_.put("text.txt", text);
  }
  Words sweep(const Words& more = {}) const {
    Words words = {"eval",      "frontier", "-m",        model_, "-f",        text_,
                   "--text",    text_,      "--lengths", "600",  "--depths",  "1",
                   "--context", "96",       "--chunks",  "2",    "--depth",   "100",
                   "--prompt",  "8",        "--gen",     "2",    "--threads", "1",
                   "--pattern", pattern_,   "--compute", "f32",  "--kv",      "f32"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static std::vector<json> run(Words words) {
    words.emplace_back("--json");
    const Outcome outcome = run_sedpa(words);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    std::vector<json> objects;
    std::istringstream lines(outcome.out);
    for (std::string line; std::getline(lines, line);) objects.push_back(json::parse(line));
    return objects;
  }

  TempDir folder_;
  const std::string model_ = folder_ / "tiny.gguf";
  const std::string smaller_ = folder_ / "smaller.gguf";
  const std::string pattern_ = folder_ / "pattern";
  const std::string out_ = folder_ / "results.jsonl";
  std::string text_;
};

// What compress has written of a model and its adapter is that model already; another type is not.
TEST_F(FrontierCommand, AdaptersAreMergedOnce) {
  const TinyModel shape{
      .layers = 2, .width = 64, .query_heads = 4, .kv_heads = 4, .head_dim = 16, .context = 4096};
  TinyModel smaller = shape;
  smaller.dtype = Dtype::q8_0;
  write_tiny_model(model_, shape);
  write_tiny_model(smaller_, smaller);
  const std::string adapter = folder_ / "adapter.gguf";
  write_tiny_adapter(adapter, shape, 4, 0);
  std::string snow;
  for (int i = 0; i < 1500; ++i) snow += "The snow fell all night, and nobody came.\n\n";
  const std::string compressed = folder_ / "compressed.gguf";
  const Outcome made =
      run_sedpa({"compress", "-m", model_, "--lora", adapter, "-o", compressed, "--text",
                 folder_.put("snow.txt", snow), "--context", "2048", "--calibration-tokens", "4096",
                 "--attention-parameters", "-1%", "--type", "f32", "--threads", "2"});
  ASSERT_EQ(made.exit_code, 0) << made.error;
  const auto perplexities = [&](const Words& more) {
    Words words = {"eval",      "frontier", "-m",        model_, "-f",       text_,
                   "--tests",   "none",     "--context", "96",   "--chunks", "2",
                   "--depth",   "100",      "--prompt",  "8",    "--gen",    "2",
                   "--threads", "1",        "--compute", "f32",  "--kv",     "f32"};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<double> found;
    for (const json& line : run(words)) {
      if (line.contains("perplexity")) found.push_back(line["perplexity"]);
    }
    return found;
  };
  const std::vector<double> adapted =
      perplexities({"--lora", adapter, "--models", compressed + "," + smaller_});
  const std::vector<double> plain = perplexities({"--models", smaller_});
  ASSERT_EQ(adapted.size(), 3u);
  const double away = std::abs(plain[0] - adapted[0]);
  EXPECT_LT(std::abs(adapted[1] - adapted[0]), 0.2 * away);
  EXPECT_LT(std::abs(adapted[2] - adapted[0]), 0.2 * away);
}

TEST_F(FrontierCommand, ComparesModelsSparsitiesAndWindows) {
  const Words words =
      sweep({"--models", smaller_, "--sparsities", "0,0.5", "--retrieval-window", "full",
             "--retrieval-window", "4,8,32", "--max-loss", "0", "--out", out_});
  const std::vector<json> lines = run(words);
  ASSERT_EQ(lines.size(), 9u);  // 2 models x 2 sparsities x 2 windows, and the conclusion
  const json& first = lines.front();
  EXPECT_EQ(first["model"], model_);
  EXPECT_EQ(first["sparsity"], 0);
  EXPECT_TRUE(first["retrieval_window"].is_null());
  EXPECT_NEAR(first["kl_divergence"].get<double>(), 0, 1e-9);
  for (std::size_t i = 0; i < 8; ++i) {
    for (const char* key : {"perplexity", "decode_bytes_per_token", "decode_seconds",
                            "prefill_seconds", "kv_bytes", "weight_bytes", "parameters"}) {
      EXPECT_GT(lines[i][key].get<double>(), 0) << key;
    }
    for (const char* key : {"passkey", "niah", "top1_agreement"}) {
      EXPECT_GE(lines[i][key].get<double>(), 0) << key;
      EXPECT_LE(lines[i][key].get<double>(), 1) << key;
    }
    if (i > 0) {
      EXPECT_GT(lines[i]["kl_divergence"], first["kl_divergence"]);
    }
  }
  // The same heads cost the same cache in another type of weights.
  EXPECT_EQ(lines[4]["model"], smaller_);
  EXPECT_EQ(lines[4]["kv_bytes"], first["kv_bytes"]);
  EXPECT_LT(lines[1]["kv_bytes"], first["kv_bytes"]);

  // Every setting is on the frontier or beaten by one that is, in the numbers of its line.
  const json& result = lines.back();
  EXPECT_EQ(result["settings"], 8);
  ASSERT_FALSE(result["pareto"].empty());
  for (std::size_t i = 0; i < 8; ++i) {
    const double loss = lines[i]["kl_divergence"];
    const double cost = lines[i]["decode_bytes_per_token"];
    bool covered = false;
    for (const json& best : result["pareto"]) {
      covered |= best["loss"] <= loss && best["cost"] <= cost;
      EXPECT_FALSE(loss <= best["loss"] && cost <= best["cost"] &&
                   (loss < best["loss"] || cost < best["cost"]));
    }
    EXPECT_TRUE(covered) << lines[i] << "\n" << result;
  }
  EXPECT_EQ(result["cheapest"].is_null(), first["kl_divergence"] > 0);

  // Again: nothing is measured twice. Another question of the same results may be asked.
  const std::vector<json> again = run(words);
  ASSERT_EQ(again.size(), 9u);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(again[i], lines[i]);
  EXPECT_EQ(again.back()["pareto"], result["pareto"]);
  Words other = words;
  other.insert(other.end(), {"--loss", "perplexity", "--cost", "kv"});
  EXPECT_EQ(run(other)[3], lines[3]);
  Words changed = words;
  changed.insert(changed.end(), {"--seed", "5"});
  const Outcome refused = run_sedpa(changed);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.error.find("seed"), std::string::npos) << refused.error;
}

TEST_F(FrontierCommand, PrintsATableForPeople) {
  const Outcome outcome = run_sedpa(
      sweep({"--tests", "none", "--sparsities", "1", "--max-loss", "1000000", "--cost", "kv"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_NE(outcome.out.find("2 settings"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("the cheapest that loses no more than 1e+06"), std::string::npos);
  EXPECT_NE(run_sedpa({"eval", "frontier", "--help"}).out.find("Examples:"), std::string::npos);
}

TEST_F(FrontierCommand, RefusesWhatMakesNoSense) {
  const auto refuse = [&](Words words, int code, const char* what) {
    const Outcome outcome = run_sedpa(words);
    EXPECT_EQ(outcome.exit_code, code) << what;
    EXPECT_EQ(outcome.error_lines(), 1) << outcome.error;
    EXPECT_NE(outcome.error.find(what), std::string::npos) << outcome.error;
  };
  refuse(sweep({"--max-loss", "-1"}), 2, "--max-loss");
  refuse(sweep({"--sparsities", "0.5,2"}), 2, "--sparsities");
  refuse(sweep({"--loss", "size"}), 2, "--loss");
  refuse(sweep({"--loss", "niah", "--tests", "passkey"}), 2, "--tests niah");
  refuse(sweep({"--tests", "none,niah"}), 2, "--tests none");
  refuse(sweep({"--retrieval-window", "1,2"}), 2, "--retrieval-window is '1,2'");
  refuse({"eval", "frontier", "-m", model_, "-f", text_, "--sparsities", "0.5"}, 2, "--pattern");
  refuse(sweep({"--models", folder_ / "none.gguf"}), 1, "none.gguf");
  const std::string brief = folder_.put("brief.txt", "Too few words.");
  refuse({"eval", "frontier", "-m", model_, "-f", brief}, 1, "4096");
  const std::string llama3 = std::string(SEDPA_SOURCE_DIR) + "/tests/data/models/llama3-f16.gguf";
  refuse(sweep({"--models", llama3}), 1, "llama3-f16.gguf");
}

}  // namespace
}  // namespace sedpa::test
