// sedpa identify --method gates, as a user sees it.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/cli/run.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class GateCommand : public testing::Test {
 protected:
  GateCommand() {
    write_tiny_model(model_, {.layers = 3, .context = 4096});
    std::ofstream text(text_);
    for (int i = 0; i < 120; ++i) text << "The snow fell all night, and nobody came.\n\n";
  }

  [[nodiscard]] Words command(const std::string& output, const Words& more = {}) const {
    // A byte is a token of this model.
    std::map<std::string, std::string> options = {
        {"-m", model_},        {"--text", text_},      {"-o", output},
        {"--context", "1700"}, {"--shortest", "1300"}, {"--sink", "8"},
        {"--recent", "24"},    {"--threads", "2"},     {"--method", "gates"}};
    for (std::size_t i = 0; i < more.size(); i += 2) options[more[i]] = more[i + 1];
    Words words = {"identify", "--json"};
    for (const auto& [name, value] : options) {
      words.push_back(name);
      words.push_back(value);
    }
    return words;
  }
  static std::vector<json> run(const Words& words) {
    const Outcome outcome = run_sedpa(words);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    std::vector<json> lines;
    std::istringstream out(outcome.out);
    for (std::string line; std::getline(out, line);) lines.push_back(json::parse(line));
    return lines;
  }
  static std::string read(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  TempDir folder_;
  const std::string model_ = folder_ / "tiny.gguf";
  const std::string text_ = folder_ / "snow.txt";
};

TEST_F(GateCommand, TrainsWritesAPatternAndGoesOn) {
  const std::string whole = folder_ / "whole";
  const std::vector<json> lines = run(command(whole, {"--steps", "4"}));
  ASSERT_EQ(lines.size(), 5u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(lines[i]["step"], i + 1);
    EXPECT_TRUE(lines[i]["loss"].is_number());
    EXPECT_GT(lines[i]["steps_per_second"].get<double>(), 0);
  }
  EXPECT_EQ(lines[4]["method"], "gates");
  EXPECT_EQ(lines[4]["saturated_cut"].size(), 4u);
  const json config = json::parse(read(whole + "/config.json"));
  EXPECT_EQ(config["method"], "gates");
  EXPECT_EQ(config["sink_size"], 8);
  EXPECT_EQ(config["recent_size"], 24);
  for (const char* key : {"model", "model_fingerprint", "text", "text_fingerprint", "seed", "date",
                          "steps", "steps_done", "learning_rate", "regularization"}) {
    EXPECT_TRUE(config.contains(key)) << key;
  }
  const Outcome used =
      run_sedpa({"generate", "-m", model_, "-p", "Hello", "-n", "2", "--pattern", whole, "--json"});
  EXPECT_EQ(used.exit_code, 0) << used.error;

  // The same again, and taken up where nothing is left to do.
  EXPECT_EQ(json::parse(read(whole + "/gate_training.json"))["step"], 4);
  const std::string again = folder_ / "again";
  EXPECT_EQ(run(command(again, {"--steps", "4"}))[3]["loss"], lines[3]["loss"]);
  EXPECT_EQ(read(again + "/gate_training.json"), read(whole + "/gate_training.json"));
  const std::string rest = folder_ / "rest";
  EXPECT_EQ(run(command(rest, {"--steps", "4", "--resume", again + "/gate_training.json"})).size(),
            1u);
  EXPECT_EQ(read(rest + "/full_attention_heads.tsv"), read(whole + "/full_attention_heads.tsv"));
}

TEST_F(GateCommand, SaysWhatIsWrong) {
  const std::string output = folder_ / "p";
  expect_refusal({"identify", "-m", model_, "-o", output, "--steps", "4"}, 2,
                 {"--steps", "output-error"});
  expect_refusal(command(output, {"--prompts", "4"}), 2, {"--prompts", "gates"});
  expect_refusal(command(output, {"--steps", "0"}), 2, {"--steps"});
  expect_refusal(command(output, {"--lr", "0"}), 2, {"--lr"});
  expect_refusal(command(output, {"--context", "5000"}), 1, {"5000", "4096"});
  expect_refusal(command(output, {"--recent", "2000"}), 1, {"8 + 2000"});
  expect_refusal(command(output, {"--shortest", "300"}), 1, {"300", "at least"});
  const std::string file = folder_.put("file", "x");
  expect_refusal(command(file + "/p"), 1, {"file/p", "directory"});
  expect_refusal(command(output, {"--memory-limit", "1K"}), 1, {"--memory-limit", "--context"});
  folder_.put("little.txt", "Too little.\n");
  expect_refusal(command(output, {"--text", folder_ / "little.txt"}), 1, {"little.txt"});
  const std::string other = folder_.put("other.json", "{\"format\": 3}\n");
  expect_refusal(command(output, {"--resume", other}), 1, {"other.json", "format"});
}

}  // namespace
}  // namespace sedpa::test
