// The needle tests and identification, from the command line to their files.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/cli/run.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class NeedleCommands : public testing::Test {
 protected:
  NeedleCommands() {
    write_tiny_model(model_, {.layers = 3});
    write_tiny_pattern(pattern_, 3, 2);
    std::string text;
    for (int i = 0; i < 100; ++i) text += "The snow fell all night, and nobody came.\n\n";
    text_ = folder_.put("text.jsonl", json({{"text", text}}).dump());
  }

  static std::vector<json> lines_of(const std::string& text) {
    std::vector<json> objects;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      objects.push_back(json::parse(line, nullptr, /*allow_exceptions=*/false));
      EXPECT_TRUE(objects.back().is_object()) << line;
    }
    return objects;
  }
  // `words` with --json and what all of these commands need.
  std::vector<json> run(Words words, const Words& more = {}) const {
    words.insert(words.end(), {"-m", model_, "--text", text_, "--threads", "1", "--json"});
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run_sedpa(words);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    return lines_of(outcome.out);
  }
  Outcome refuse(Words words, const Words& more = {}) const {
    words.insert(words.end(), {"-m", model_, "--text", text_, "--threads", "1"});
    words.insert(words.end(), more.begin(), more.end());
    Outcome outcome = run_sedpa(words);
    EXPECT_NE(outcome.exit_code, 0);
    EXPECT_EQ(outcome.error_lines(), 1) << outcome.error;
    return outcome;
  }
  std::string read(const std::string& path) const {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  TempDir folder_;
  const std::string model_ = folder_ / "tiny.gguf";
  const std::string pattern_ = folder_ / "pattern";
  const std::string out_ = folder_ / "results.jsonl";
  std::string text_;
};

TEST_F(NeedleCommands, NoteWhatIsBeyondTheTrainedContextOnce) {
  const std::string short_model = folder_ / "short.gguf";
  write_tiny_model(short_model, {.layers = 1, .context = 600});
  for (const auto& [lengths, notes] : {std::pair{"400", 0}, {"400,700", 1}}) {
    const Outcome outcome = run_sedpa({"eval", "passkey", "-m", short_model, "--text", text_,
                                       "--lengths", lengths, "--depths", "2"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    EXPECT_EQ(outcome.error_lines(), notes) << outcome.error;
    EXPECT_EQ(outcome.error.find("beyond the 600 that") != std::string::npos, notes > 0);
  }
  for (const auto& [context, beyond] : {std::pair{"600", false}, {"700", true}}) {
    const Outcome outcome = run_sedpa({"identify", "-m", short_model, "--text", text_, "-o",
                                       folder_ / "scores", "--method", "copy-score", "--context",
                                       context, "--sink", "8", "--recent", "32"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    EXPECT_EQ(outcome.error.find("beyond the 600 that") != std::string::npos, beyond);
  }
}

TEST_F(NeedleCommands, HelpHasAnExample) {
  for (const char* command : {"passkey", "niah", "masking"}) {
    const Outcome outcome = run_sedpa({"eval", command, "--help"});
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_NE(outcome.out.find("sedpa eval " + std::string(command)), std::string::npos);
  }
}

TEST_F(NeedleCommands, OneLineACaseThenTheScore) {
  const std::vector<json> niah =
      run({"eval", "niah", "--lengths", "600,700", "--depths", "3", "--samples", "2"});
  ASSERT_EQ(niah.size(), 13u);
  double sum = 0;
  for (std::size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(niah[i]["prompt_tokens"], i < 6 ? 600 : 700);
    EXPECT_TRUE(niah[i]["text"].is_string());
    EXPECT_TRUE(niah[i]["rouge1_f"].is_number());
    sum += niah[i]["score"].get<double>();
  }
  EXPECT_DOUBLE_EQ(niah[12]["score"].get<double>(), sum / 12);
  EXPECT_EQ(niah[12]["cases"], 12);
  EXPECT_EQ(niah[12]["sparsity"], 0);

  const std::vector<json> passkey =
      run({"eval", "passkey", "--lengths", "600", "--depths", "2"}, {"--pattern", pattern_});
  ASSERT_EQ(passkey.size(), 3u);
  EXPECT_EQ(passkey[0]["expected"].get<std::string>().size(), 5u);
  EXPECT_EQ(passkey[2]["sparsity"], 0.5);

  const std::vector<json> several = run({"eval", "niah", "--lengths", "900", "--depths", "1"},
                                        {"--needles", "3", "--ask-all", "--chat-template"});
  ASSERT_EQ(several.size(), 2u);
  EXPECT_EQ(several[0]["expected"].size(), 3u);
  EXPECT_EQ(several[0]["text"].size(), 3u);
  EXPECT_FALSE(several[0].contains("rouge1_f"));
}

TEST_F(NeedleCommands, OtherPatternsAreMadeFromOne) {
  const Words base = {"eval", "passkey", "--lengths", "600", "--depths", "1"};
  const auto plan = [&](const Words& more) {
    std::filesystem::remove(out_);
    Words words = {"--pattern", pattern_, "--out", out_};
    words.insert(words.end(), more.begin(), more.end());
    const json last = run(base, words).back();
    EXPECT_EQ(last["reversed"], !more.empty() && more[0] == "--reversed");
    return lines_of(read(out_)).front()["settings"]["head_plan"].get<std::string>();
  };
  const std::string plain = plan({});
  EXPECT_NE(plan({"--reversed"}), plain);
  EXPECT_EQ(plan({"--shuffled", "5"}), plan({"--shuffled", "5"}));
  std::set<std::string> shuffled;
  for (const char* seed : {"1", "2", "3", "4", "5"}) shuffled.insert(plan({"--shuffled", seed}));
  EXPECT_GT(shuffled.size(), 2u);
}

// A run that was cut short goes on where it stopped, and asks nothing twice.
TEST_F(NeedleCommands, ResultsAreTakenUp) {
  const Words base = {"eval", "niah", "--depths", "4"};
  const Words short_run = {"--lengths", "600", "--out", out_};
  const std::vector<json> first = run(base, short_run);
  ASSERT_EQ(first.size(), 5u);
  const std::string whole = read(out_);
  ASSERT_EQ(lines_of(whole).size(), 6u);  // settings, cases, score
  const auto without_times = [](std::vector<json> lines) {
    for (json& line : lines) {
      for (const char* key : {"prefill_seconds", "decode_seconds", "read_tokens", "peak_bytes"}) {
        line.erase(key);
      }
    }
    return lines;
  };
  // As it stands, and cut inside the third case.
  const std::size_t third = whole.find("\"depth\":0.66");
  for (const std::string& before : {whole, whole.substr(0, third)}) {
    folder_.put("results.jsonl", before);
    EXPECT_EQ(without_times(run(base, short_run)), without_times(first));
    EXPECT_EQ(without_times(lines_of(read(out_))), without_times(lines_of(whole)));
  }
  // Times show which cases were asked again: none.
  const std::vector<json> again = run(base, short_run);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(again[i], lines_of(read(out_))[i + 1]);
  // More cases join the old ones.
  const std::vector<json> more = run(base, {"--lengths", "600,700", "--out", out_});
  ASSERT_EQ(more.size(), 9u);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(more[i], again[i]);
  EXPECT_EQ(lines_of(read(out_)).size(), 10u);
}

TEST_F(NeedleCommands, ResultsOfOtherSettingsAreRefused) {
  const Words base = {"eval", "niah", "--lengths", "600", "--depths", "1", "--out", out_};
  ASSERT_EQ(run(base).size(), 2u);
  const std::string before = read(out_);
  const auto expect = [&](const Words& more, std::initializer_list<std::string_view> parts) {
    const Outcome outcome = refuse(base, more);
    EXPECT_EQ(outcome.exit_code, 1);
    for (const std::string_view part : parts) {
      EXPECT_NE(outcome.error.find(part), std::string::npos) << outcome.error;
    }
    EXPECT_EQ(read(out_), before);
  };
  expect({"--seed", "2"}, {"results.jsonl", "seed is 1, this run's is 2"});
  expect({"--kv", "f32"}, {"kv_dtype", "f16", "f32"});
  expect({"--pattern", pattern_}, {"head_plan"});
  expect({"--chat-template"}, {"chat_template"});
  expect({"--compute", "f32"}, {"compute"});
  folder_.put("results.jsonl", "Once upon a time\n");
  EXPECT_NE(refuse(base).error.find("line 1"), std::string::npos);
  folder_.put("results.jsonl", "{\"score\": 1}\n");
  EXPECT_NE(refuse(base).error.find("not a file of results"), std::string::npos);
  const Words nowhere = {"eval", "niah", "--lengths", "600", "--out", folder_ / "none/results"};
  EXPECT_NE(refuse(nowhere).error.find("none/results"), std::string::npos);
}

TEST_F(NeedleCommands, MaskingHasAScoreForEachSetOfHeads) {
  const Words base = {"eval",   "masking", "--scores", pattern_, "--lengths",     "600",
                      "--test", "passkey", "--depths", "2",      "--random-sets", "2",
                      "--out",  out_,      "--masked", "1,0.5"};
  const std::vector<json> lines = run(base);
  std::vector<std::string> sets;
  for (const json& line : lines) {
    EXPECT_TRUE(line.contains("score"));
    if (!line.contains("cases")) continue;
    EXPECT_EQ(line["unit"], "kv");
    EXPECT_EQ(line["heads_in_all"], 6);
    sets.push_back(fmt::format("{} {} {}", line["mask"].get<std::string>(), line["masked"].dump(),
                               line["mask_seed"].dump()));
  }
  EXPECT_EQ(sets, (Words{"none 0 null", "top 1 null", "bottom 1 null", "random 1 1", "random 1 2",
                         "top 3 null", "bottom 3 null", "random 3 1", "random 3 2"}));
  EXPECT_EQ(lines.size(), sets.size() * 3);
  EXPECT_EQ(run(base), lines);  // all of it out of the file, times too
  const Outcome other = refuse(base, {"--seed", "2"});
  EXPECT_NE(other.error.find("seed"), std::string::npos);
}

TEST_F(NeedleCommands, IdentifyWritesPatternsOfBothMethods) {
  for (const char* method : {"output-error", "copy-score"}) {
    const std::string pattern = folder_ / method;
    const std::vector<json> report =
        run({"identify", "-o", pattern, "--method", method, "--context", "4100", "--prompts", "1",
             "--sink", "8", "--recent", "16"});
    ASSERT_EQ(report.size(), 1u);
    EXPECT_EQ(report[0]["method"], method);
    const json config = json::parse(read(pattern + "/config.json"));
    for (const char* key : {"sink_size", "recent_size", "method", "model", "model_fingerprint",
                            "text", "text_fingerprint", "seed", "date", "prompt_tokens", "gate"}) {
      EXPECT_TRUE(config.contains(key)) << key;
    }
    EXPECT_EQ(config["method"], method);
    EXPECT_EQ(std::filesystem::exists(pattern + "/query_head_scores.tsv"),
              method == std::string("copy-score"));
    EXPECT_EQ(run_sedpa({"generate", "-m", model_, "-p", "Hello", "-n", "2", "--pattern", pattern})
                  .exit_code,
              0);
  }
}

TEST_F(NeedleCommands, SayWhatIsWrong) {
  const auto expect = [&](const Words& words, int exit_code,
                          std::initializer_list<std::string_view> parts) {
    const Outcome outcome = refuse(words);
    SCOPED_TRACE(outcome.error);
    EXPECT_EQ(outcome.exit_code, exit_code);
    EXPECT_EQ(outcome.out, "");
    for (const std::string_view part : parts) {
      EXPECT_NE(outcome.error.find(part), std::string::npos) << "it lacks: " << part;
    }
  };
  const Words masking = {"eval", "masking", "--scores", pattern_, "--lengths", "600"};
  const auto with = [](Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  expect({"eval", "niah", "--reversed"}, 2, {"--reversed", "--pattern"});
  expect({"eval", "niah", "--shuffled", "1"}, 2, {"--shuffled", "--pattern"});
  expect({"eval", "niah", "--pattern", pattern_, "--reversed", "--shuffled", "1"}, 2,
         {"--reversed", "--shuffled"});
  expect({"eval", "niah", "--needles", "0"}, 2, {"--needles"});
  expect({"eval", "niah", "--ask-all"}, 2, {"--ask-all", "--needles"});
  expect({"eval", "niah", "--lengths", "100"}, 1, {"100 tokens", "too short"});
  expect({"eval", "niah", "--lengths", "100000"}, 1, {"text.jsonl", "4200 tokens"});
  expect({"eval", "niah", "--lengths", "600,100000"}, 1, {"4200 tokens"});  // before the first
  expect({"eval", "masking", "--lengths", "600"}, 2, {"--scores"});
  expect(with(masking, {"--masked", "7"}), 1, {"7 heads", "6"});
  expect(with(masking, {"--masked", "1.5"}), 2, {"--masked", "1.5"});
  expect(with(masking, {"--masked", "some"}), 2, {"--masked", "some"});
  const std::string other = folder_ / "other";
  write_tiny_pattern(other, 30, 3);
  expect({"eval", "masking", "--scores", other}, 1, {"30 layers x 3", "3 x 2"});
  expect({"identify", "-o", folder_ / "p", "--method", "guess"}, 2, {"--method", "copy-score"});
  expect({"identify", "-o", folder_ / "p", "--context", "384"}, 1, {"384", "128 + 256"});
  expect({"identify", "-o", folder_ / "p", "--context", "90000"}, 1, {"text.jsonl", "expected"});
  const std::string file = folder_.put("file", "x");
  expect({"identify", "-o", file + "/p", "--context", "1500"}, 1, {"file/p", "directory"});
}

TEST_F(NeedleCommands, TextsThatAreNone) {
  text_ = folder_.put("bad.jsonl", "{\"text\": \"x\"}\n{\"body\": \"x\"}\n");
  EXPECT_NE(refuse({"eval", "niah"}).error.find("bad.jsonl: line 2"), std::string::npos);
  text_ = model_;
  EXPECT_NE(
      refuse({"identify", "-o", folder_ / "p", "--context", "1500"}).error.find("is not text"),
      std::string::npos);
  text_ = folder_ / "none";
  EXPECT_NE(refuse({"eval", "passkey"}).error.find("No such file"), std::string::npos);
}

}  // namespace
}  // namespace sedpa::test
