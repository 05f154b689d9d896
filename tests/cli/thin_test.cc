// Models of thin heads, from the command line.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/run.h"
#include "tests/format/support.h"
#include "tests/support/thin_model.h"

namespace sedpa::test {
namespace {

using nlohmann::json;

class ThinHeadsFile : public testing::Test {
 protected:
  ThinHeadsFile() {
    write_thin_model(model_, make_thin_model({.layers = 2, .head_dim = 32},
                                             {{16, 32}, {32, 16}, {32, 32}, {16, 16}}));
  }
  TempDir folder_;
  const std::string model_ = folder_ / "thin.gguf";
};

TEST_F(ThinHeadsFile, IsDescribedByInfo) {
  const Outcome outcome = run_sedpa({"info", "-m", model_, "--context", "100", "--json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const json info = json::parse(outcome.out);
  EXPECT_EQ(info["thin_heads"],
            json({{"heads", 3}, {"mean_key_width", 24}, {"mean_value_width", 24}}));
  // All heads of a layer are in one class here, whose rows are as wide as the widest head.
  EXPECT_EQ(info["kv_bytes"], 2 * 2 * 100 * (32 + 32) * 2);
  const Outcome text = run_sedpa({"info", "-m", model_});
  EXPECT_NE(text.out.find("3 of 4 KV heads, on average keys of 24.0 and values of 24.0 numbers "
                          "instead of 32"),
            std::string::npos)
      << text.out;
}

TEST_F(ThinHeadsFile, GeneratesLikeAnyOther) {
  const Outcome outcome =
      run_sedpa({"generate", "-m", model_, "-p", "the", "-n", "4", "--temp", "0", "--kv", "q8"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
}

TEST_F(ThinHeadsFile, IsRefusedWhereHeadsMustBeWhole) {
  const std::string out = folder_ / "out";
  for (const char* method : {"gates", "output-error", "copy-score"}) {
    expect_refusal({"identify", "-m", model_, "-o", out, "--method", method, "--context", "120",
                    "--sink", "4", "--recent", "16"},
                   1, {model_, "thin"});
  }
  const std::string pattern = folder_ / "pattern";
  write_tiny_pattern(pattern, 2, 2);
  expect_refusal({"eval", "masking", "-m", model_, "--scores", pattern}, 1, {model_, "thin"});
}

TEST(ThinShape, HasASuffix) {
  const Outcome outcome = run_sedpa({"bench", "--shape", "smollm2-135m-layer1-thin32x48-rank64",
                                     "--prompt", "3", "--gen", "1", "--depth", "20", "--json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  expect_refusal({"bench", "--shape", "smollm2-135m-thin32"}, 1, {"smollm2-135m-thin32", "96x64"});
  expect_refusal({"bench", "--shape", "smollm2-135m-thin40x32"}, 1,
                 {"key_widths", "40", "multiple of 16"});
  expect_refusal({"bench", "--shape", "smollm2-135m-thin32x128"}, 1,
                 {"value_widths", "128", "multiple of 16"});
}

}  // namespace
}  // namespace sedpa::test
