#include "sedpa/identify/head_scoring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "sedpa/core/error.h"
#include "sedpa/identify/pattern_origin.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace sedpa {
namespace {

TEST(HeadScoring, GatesKeepTheOrderAndTheMedianStandsAtOneHalf) {
  const std::vector<double> scores = {0.3, 0.0, 2.5, 0.1, 0.02, 0.7, 0.11};
  const std::vector<double> gates = gates_from_scores(scores);
  ASSERT_EQ(gates.size(), scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    EXPECT_GE(gates[i], 0);
    EXPECT_LE(gates[i], 1);
    for (std::size_t j = 0; j < scores.size(); ++j) {
      EXPECT_EQ(scores[i] < scores[j], gates[i] < gates[j]);
    }
  }
  EXPECT_DOUBLE_EQ(gates[6], 0.5);  // 0.11 is the median
}

TEST(HeadScoring, GatesOfHeadsThatLoseNothingAreZero) {
  EXPECT_EQ(gates_from_scores({0, 0, 0}), (std::vector<double>{0, 0, 0}));
  EXPECT_TRUE(gates_from_scores({}).empty());
  // A median of zero still tells the others apart.
  const std::vector<double> gates = gates_from_scores({0, 0, 0, 0.2, 0.1});
  EXPECT_LT(gates[0], gates[4]);
  EXPECT_LT(gates[4], gates[3]);
  EXPECT_LE(gates[3], 1);
}

// A tiny model knows nothing, but the whole way from a text to a pattern must hold for it too.
class HeadScoringOfATinyModel : public testing::Test {
 protected:
  HeadScoringOfATinyModel() {
    test::write_tiny_model(path_, {.layers = 3, .context = 4096});
    EngineOptions options;
    options.model = path_;
    options.threads = 2;
    options.compute = Compute::f32;
    engine_.emplace(options);
    engine_->load();
    std::string text;
    for (int i = 0; i < 300; ++i) text += "The snow fell all night, and nobody came.\n\n";
    filler_.emplace(engine_->tokenizer(), text, "snow");
  }

  static HeadScoringOptions options() {
    HeadScoringOptions options;
    options.context = 2000;
    options.prompts = 2;
    options.keys = 1;
    options.words = 4;
    options.sink = 16;
    options.recent = 32;
    options.kv = KvDtype::f32;
    return options;
  }

  const test::TempDir folder_;
  const std::string path_ = folder_ / "model.gguf";
  std::optional<Engine> engine_;
  std::optional<FillerText> filler_;
};

TEST_F(HeadScoringOfATinyModel, ShortestPromptsHideAKeyAndHaveTwoWindows) {
  HeadScoringOptions few = options();
  few.context = 600;
  few.prompts = 3;
  few.sink = 100;
  few.recent = 150;
  EXPECT_EQ(score_by_output_error(*engine_, *filler_, few, {}).prompt_tokens,
            (std::vector<std::int64_t>{500, 550, 600}));
  few.recent = 16;
  const HeadScores scores = score_by_copying(*engine_, *filler_, few, {});
  EXPECT_EQ(scores.prompt_tokens.front(),
            least_prompt_tokens(engine_->tokenizer(), HiddenKind::keys));
  EXPECT_EQ(scores.prompt_tokens.back(), 600);
  EXPECT_EQ(scores.keys, (std::vector<std::int64_t>{1, 1, 1}));
}

TEST_F(HeadScoringOfATinyModel, GivesTheSameScoresForTheSameSeed) {
  std::int64_t last = 0;
  std::int64_t total = 0;
  const HeadScores scores =
      score_by_output_error(*engine_, *filler_, options(), [&](std::int64_t done, std::int64_t of) {
        EXPECT_GE(done, last);
        EXPECT_LE(done, of);
        last = done;
        total = of;
      });
  EXPECT_EQ(total, 500 + 2000);
  EXPECT_EQ(scores.tokens(), 500 + 2000);
  EXPECT_EQ(scores.layers, 3);
  EXPECT_EQ(scores.kv_heads, 2);
  ASSERT_EQ(scores.scores.size(), 6u);
  EXPECT_GT(scores.positions, 2 * 4);
  for (const double score : scores.scores) EXPECT_GT(score, 0);
  EXPECT_EQ(score_by_output_error(*engine_, *filler_, options()).scores, scores.scores);
  HeadScoringOptions other = options();
  other.seed = 2;
  EXPECT_NE(score_by_output_error(*engine_, *filler_, other).scores, scores.scores);

  const AttentionPattern pattern =
      pattern_from_gates(scores, gates_from_scores(scores.scores), options());
  EXPECT_EQ(pattern.layers, 3);
  EXPECT_EQ(pattern.sink_size, 16);
  EXPECT_EQ(pattern.recent_size, 32);
  const auto made =
      nlohmann::json::parse(pattern_origin("output-error", *engine_, *filler_, options().seed,
                                           scoring_settings(scores, options(), "x")));
  EXPECT_EQ(made.at("method"), "output-error");
  EXPECT_EQ(made.at("seed"), 1);
  EXPECT_EQ(made.at("text"), "snow");
  EXPECT_EQ(made.at("text_fingerprint"), filler_->fingerprint());
  EXPECT_EQ(made.at("model_fingerprint"), engine_->fingerprint());
  EXPECT_EQ(made.at("keys"), (std::vector<int>{1, 1}));
  EXPECT_EQ(made.at("prompt_tokens"), (std::vector<int>{500, 2000}));
}

// A random model copies now and then by chance, at the least never. What it means to copy is tested
// on a model that does (strongest_attention_test.cc).
TEST_F(HeadScoringOfATinyModel, CopyScoresAreSharesAndFoldToTheHighest) {
  const HeadScores scores = score_by_copying(*engine_, *filler_, options());
  EXPECT_EQ(scores.tokens(), 500 + 2000);
  ASSERT_EQ(scores.query_scores.size(), 3u * 4u);
  ASSERT_EQ(scores.scores.size(), 3u * 2u);
  for (std::size_t h = 0; h < scores.query_scores.size(); ++h) {
    EXPECT_GE(scores.query_scores[h], 0);
    EXPECT_LE(scores.query_scores[h], 1);
    EXPECT_GE(scores.scores[h / 2], scores.query_scores[h]);
  }
  for (std::size_t h = 0; h < scores.scores.size(); ++h) {
    EXPECT_EQ(scores.scores[h],
              std::max(scores.query_scores[2 * h], scores.query_scores[2 * h + 1]));
  }
  EXPECT_EQ(score_by_copying(*engine_, *filler_, options()).query_scores, scores.query_scores);
}

TEST_F(HeadScoringOfATinyModel, PlansTheSessionThatItMakes) {
  const SessionOptions planned = scoring_session(*engine_, options());
  EXPECT_EQ(planned.context, 2000);
  EXPECT_EQ(planned.kv, KvDtype::f32);
  EXPECT_EQ(planned.heads.streaming_heads(), 0);
}

TEST_F(HeadScoringOfATinyModel, FindsBeforeTheWeightsAreLoadedWhatCannotWork) {
  EngineOptions unloaded;
  unloaded.model = path_;
  const Engine engine(unloaded);
  EXPECT_NO_THROW(check_head_scoring(engine, *filler_, options()));
  const FillerText little(engine.tokenizer(), "Too little.\n", "little.txt");
  EXPECT_THROW(check_head_scoring(engine, little, options()), Error);
  HeadScoringOptions none = options();
  none.prompts = 0;
  EXPECT_THROW(check_head_scoring(engine, *filler_, none), Error);
}

TEST_F(HeadScoringOfATinyModel, RefusesWhatCannotBe) {
  HeadScoringOptions bad = options();
  bad.prompts = 0;
  EXPECT_THROW(static_cast<void>(score_by_output_error(*engine_, *filler_, bad)), Error);
  bad = options();
  bad.context = 1000000;  // longer than the text
  EXPECT_THROW(static_cast<void>(score_by_output_error(*engine_, *filler_, bad)), Error);
  bad = options();
  bad.context = 200;  // no room for a document
  EXPECT_THROW(static_cast<void>(score_by_output_error(*engine_, *filler_, bad)), Error);
  bad = options();
  bad.kv = KvDtype::q4;
  EXPECT_THROW(static_cast<void>(score_by_output_error(*engine_, *filler_, bad)), Error);
}

}  // namespace
}  // namespace sedpa
