// SmolLM2-135M-Instruct, the real file, against Hugging Face transformers; and what the
// long-context adapter and the pattern of the tree are shipped for. Skipped unless SEDPA_TEST_MODEL
// names the file that scripts/fetch-model gets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/generate.h"
#include "sedpa/engine/plan_heads.h"
#include "sedpa/engine/session.h"
#include "sedpa/eval/masking.h"
#include "sedpa/identify/head_scoring.h"

namespace sedpa {
namespace {

const std::string kTree = SEDPA_SOURCE_DIR;
const std::string kPattern = kTree + "/attn_patterns/SmolLM2-135M-Instruct-32K";

// tests/reference/hf_logits.py made it; `made_by` in the file says from what.
nlohmann::json reference() {
  std::ifstream file(kTree + "/tests/data/real_model/smollm2-q4_1.json");
  return nlohmann::json::parse(file);
}

double log_sum_exp(std::span<const float> row) {
  const double top = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float value : row) sum += std::exp(value - top);
  return top + std::log(sum);
}

class SmolLm2 : public testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("SEDPA_TEST_MODEL");
    if (path == nullptr) GTEST_SKIP() << "SEDPA_TEST_MODEL names no model";
    options_.model = path;
    options_.device = "cpu";
  }

  EngineOptions options_;
};

// In f32 the only differences are orders of summation. A mean square difference of log
// probabilities of 2e-6 is a KL divergence of about 1e-6; the closest call of the reference between
// its first and second token is 1.6e-3 apart.
TEST_F(SmolLm2, GivesTheLogitsOfTransformers) {
  const nlohmann::json expected = reference();
  const auto tokens = expected.at("tokens").get<std::vector<std::int32_t>>();
  const auto top = expected.at("top").get<std::vector<std::int64_t>>();
  options_.compute = Compute::f32;
  Engine engine(options_);
  engine.load();
  SessionOptions session_options;
  session_options.context = static_cast<std::int64_t>(tokens.size());
  session_options.heads = engine.full_plan();
  session_options.kv = KvDtype::f32;
  session_options.chunk = 128;
  session_options.logit_rows = 128;
  Session session(engine, session_options);

  const std::size_t vocabulary = static_cast<std::size_t>(engine.config().vocab_size);
  const auto& rows = expected.at("rows");
  std::size_t next_row = 0;
  double squares = 0;
  std::int64_t numbers = 0;
  session.evaluate(tokens, [&](std::int64_t first, std::span<const float> logits) {
    for (std::size_t i = 0; i * vocabulary < logits.size(); ++i) {
      const std::size_t position = static_cast<std::size_t>(first) + i;
      const auto row = logits.subspan(i * vocabulary, vocabulary);
      EXPECT_EQ(std::max_element(row.begin(), row.end()) - row.begin(), top[position])
          << "position " << position;
      if (next_row == rows.size() || rows[next_row].at("position") != position) continue;
      const double total = log_sum_exp(row);
      const auto& likely = rows[next_row].at("tokens");
      const auto& values = rows[next_row++].at("log_probabilities");
      for (std::size_t k = 0; k < likely.size(); ++k) {
        const double ours = row[likely[k].get<std::size_t>()] - total;
        squares += std::pow(ours - values[k].get<double>(), 2);
        ++numbers;
      }
    }
  });
  ASSERT_EQ(next_row, rows.size());
  EXPECT_LE(squares / static_cast<double>(numbers), 2e-6);
}

// The tokenizer that is inside the file, on the text that the reference was made of.
TEST_F(SmolLm2, TokenizesTheBookAsTransformersDoes) {
  const auto tokens = reference().at("tokens").get<std::vector<std::int32_t>>();
  std::ifstream file(kTree + "/data/war_and_peace.txt");
  std::string text(4 * tokens.size(), '\0');  // surely more than these tokens
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  const Engine engine(options_);
  std::vector<std::int32_t> ours = engine.tokenizer().encode(text, true, false);
  // The cut may split a word: the last tokens need not be the book's.
  const std::size_t sure = std::min(tokens.size(), ours.size() - 8);
  ours.resize(sure);
  EXPECT_EQ(ours, std::vector<std::int32_t>(tokens.begin(), tokens.begin() + sure));
}

// A number told in the middle of some 3,000 tokens, out of every streaming head's sight, is found
// with full attention and when half of the heads stream, but not when all of them do.
class SmolLm2Retrieval : public SmolLm2 {
 protected:
  void SetUp() override {
    SmolLm2::SetUp();
    if (IsSkipped()) return;
    if (!std::filesystem::exists(kPattern + "/full_attention_heads.tsv")) {
      GTEST_SKIP() << kPattern << " is not there";
    }
    options_.adapters.push_back({kTree + "/data/smollm2-135m-32k-lora-r32.gguf", 1.0f});
    engine_ = std::make_unique<Engine>(options_);
    engine_->load();
  }

  std::string answer(const HeadPlan& heads, const MaskedHeads& masked = {}) {
    std::ifstream file(kTree + "/data/war_and_peace.txt");
    std::string text(12000, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    const std::size_t end = text.rfind("\n\n");
    const std::size_t middle = text.find("\n\n", end / 2);
    const std::string document = text.substr(0, middle) +
                                 "\n\nThe pass key is 71432. Remember it. 71432 is the pass key." +
                                 text.substr(middle, end - middle);
    const auto prompt = engine_->tokenizer().encode(
        document + "\n\nWhat is the pass key? The pass key is", true, false);
    SessionOptions session_options;
    session_options.context = static_cast<std::int64_t>(prompt.size()) + 16;
    session_options.heads = heads;
    Session session(*engine_, session_options);
    mask_heads(session, masked);
    GenerateOptions options;
    options.max_tokens = 8;
    return generate(session, prompt, options).text;
  }

  HeadPlan plan(double sparsity) {
    HeadRequest request;
    request.pattern = kPattern;
    request.sparsity = sparsity;
    return plan_heads(*engine_, request).plan;
  }

  std::unique_ptr<Engine> engine_;
};

TEST_F(SmolLm2Retrieval, FullAttentionFindsTheKey) {
  EXPECT_NE(answer(engine_->full_plan()).find("71432"), std::string::npos);
}

TEST_F(SmolLm2Retrieval, HalfOfTheHeadsFindTheKey) {
  EXPECT_NE(answer(plan(0.5)).find("71432"), std::string::npos);
}

TEST_F(SmolLm2Retrieval, StreamingHeadsAloneDoNotFindIt) {
  EXPECT_EQ(answer(plan(1.0)).find("71432"), std::string::npos);
}

// Of 270 query heads, the 30 that copy most are needed, and 30 of those that never do are not
// (Wu et al., arXiv 2404.15574, section 4).
TEST_F(SmolLm2Retrieval, HeadsThatCopyAreTheOnesThatFind) {
  const FillerText filler =
      FillerText::read(engine_->tokenizer(), kTree + "/data/war_and_peace.txt");
  HeadScoringOptions options;
  options.context = 1536;
  options.prompts = 1;
  const HeadScores scores = score_by_copying(*engine_, filler, options);
  EXPECT_GT(scores.answer_accuracy, 0.9);
  EXPECT_GT(*std::max_element(scores.query_scores.begin(), scores.query_scores.end()), 0.5);
  AttentionPattern pattern = pattern_from_gates(scores, scores.scores, options);
  pattern.query_heads = scores.query_heads;
  pattern.query_scores = scores.query_scores;
  const RankedHeads ranked(pattern, engine_->config().query_heads, false);
  EXPECT_EQ(answer(engine_->full_plan(), ranked.top(30)).find("71432"), std::string::npos);
  EXPECT_NE(answer(engine_->full_plan(), ranked.bottom(30)).find("71432"), std::string::npos);
}

}  // namespace
}  // namespace sedpa
