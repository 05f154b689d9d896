// Commands on heads that are all bounded: what a user sees of texts longer than anything.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/cli/run.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class BoundedHeads : public testing::Test {
 protected:
  BoundedHeads() {
    write_tiny_model(model_, {.layers = 2});
    write_tiny_pattern(pattern_, 2, 2);
  }
  static std::string text(std::size_t bytes) {
    std::string all;
    for (std::size_t i = 0; all.size() < bytes; ++i) {
      all += "the " + std::to_string(i * i % 977) + (i % 7 == 0 ? ".\n" : " they ");
    }
    return all.substr(0, bytes);
  }
  Words ask(const Words& more) const {
    Words words = {"generate", "-m",           model_,      "--compute", "f32",
                   "--kv",     "f32",          "-n",        "12",        "--retrieval-window",
                   "3,6,9",    "--ignore-eos", "--threads", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static json run(Words words, const std::string& input = "") {
    words.emplace_back("--json");
    const Outcome outcome = run_sedpa(words, input);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    return json::parse(outcome.out, nullptr, /*allow_exceptions=*/false);
  }

  TempDir folder_;
  const std::string model_ = folder_ / "tiny.gguf";
  const std::string pattern_ = folder_ / "pattern";
};

// Read in pieces, read at once (--session keeps all tokens), taken up again, in chunks of any size:
// the same answer.
TEST_F(BoundedHeads, AnswerTheSameHoweverTheTextIsRead) {
  const std::string words = text(900);
  const std::string file = folder_.put("text", words);
  const std::string session = folder_ / "a.session";
  for (const Words& variant : {Words{}, Words{"--pattern", pattern_}}) {
    std::filesystem::remove(session);
    const auto with = [&](Words more) {
      more.insert(more.end(), variant.begin(), variant.end());
      return ask(more);
    };
    const json expected = run(with({"-f", "-", "-p", " then"}), words);
    EXPECT_EQ(expected["generated_tokens"], 12);
    const Words kept = with({"-f", file, "-p", " then", "--session", session});
    for (const json& other : {run(with({"-f", file, "-p", " then"})), run(kept), run(kept),
                              run(with({"-f", file, "-p", " then", "--chunk", "1"})),
                              run(with({"-f", "-", "-p", " then", "--chunk", "7"}), words)}) {
      EXPECT_EQ(other["token_ids"], expected["token_ids"]);
      EXPECT_EQ(other["prompt_tokens"], expected["prompt_tokens"]);
      EXPECT_EQ(other["kv_bytes"], expected["kv_bytes"]);
    }
    EXPECT_GT(run(kept)["session_tokens"], 0);
  }
}

// More than one piece of a stream: what is allocated is what was planned, for any length.
TEST_F(BoundedHeads, TakeAStreamInOneSize) {
  const json shorter = run(ask({"-f", "-"}), text(500));
  const json longer = run(ask({"-f", "-"}), text(70000));
  EXPECT_GT(longer["prompt_tokens"], 30000);
  for (const char* key : {"kv_bytes", "planned_kv_bytes", "planned_bytes", "scratch_bytes"}) {
    EXPECT_EQ(longer[key], shorter[key]) << key;
  }
  EXPECT_EQ(longer["kv_bytes"], longer["planned_kv_bytes"]);
  EXPECT_EQ(longer["decode_bytes_per_token"], shorter["decode_bytes_per_token"]);
}

// The trained context is a note then, for a file, a prompt and a conversation; full heads refuse.
TEST_F(BoundedHeads, GoBeyondTheTrainedContext) {
  const std::string words = text(400);
  Outcome outcome = run_sedpa(ask({"-f", "-"}), words);
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_NE(outcome.error.find("note: more than the 128 tokens"), std::string::npos)
      << outcome.error;
  outcome = run_sedpa(ask({"-p", words}));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_NE(outcome.error.find("note: more than the 128 tokens"), std::string::npos);
  outcome = run_sedpa(ask({"--chat"}), words + "\n" + words.substr(0, 40) + "\n");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_NE(outcome.error.find("note: more than the 128 tokens"), std::string::npos);
  outcome = run_sedpa(ask({"-p", "the"}));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.error.find("128"), std::string::npos) << outcome.error;
}

TEST_F(BoundedHeads, HaveAWindowByDefault) {
  const json info = run({"info", "-m", model_, "--retrieval-window", "default"});
  EXPECT_EQ(info["retrieval_window"], json({256, 512, 4096}));
}

// Depths far beyond the window cost a step the same.
TEST_F(BoundedHeads, AreTimedAtAnyDepth) {
  Words words = {
      "bench", "-m",    model_,     "--depth", "500,5000",  "--prompt", "16",
      "--gen", "4",     "--repeat", "1",       "--threads", "1",        "--retrieval-window",
      "3,6,9", "--json"};
  const Outcome outcome = run_sedpa(words);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const json near = json::parse(outcome.out.substr(0, outcome.out.find('\n')));
  const json far = json::parse(outcome.out.substr(outcome.out.find('\n')));
  EXPECT_EQ(near["depth"], 500);
  EXPECT_EQ(far["depth"], 5000);
  EXPECT_EQ(near["kv_bytes"], far["kv_bytes"]);
  EXPECT_LE(far["decode_bytes_per_token"].get<double>(),
            near["weight_bytes"].get<double>() + near["kv_bytes"].get<double>());
}

}  // namespace
}  // namespace sedpa::test
