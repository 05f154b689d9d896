// Perplexity against what is known without running a model: a uniform model, transformers' logits
// of the tiny models, and the definition of the divergence worked out in double.
#include "sedpa/eval/perplexity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "sedpa/core/error.h"
#include "sedpa/format/gguf_writer.h"
#include "tests/support/f32_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace sedpa {
namespace {

using test::f32_engine;
using test::random_tokens;

const std::string kModels = std::string(SEDPA_SOURCE_DIR) + "/tests/data/models/";

SessionOptions session_options(const Engine& engine, std::int64_t context,
                               std::int64_t logit_rows) {
  return {.context = context,
          .heads = engine.full_plan(),
          .kv = KvDtype::f32,
          .chunk = 16,
          .logit_rows = logit_rows};
}

// transformers' float64 logits [64, 72] of the model and the tokens they are of.
struct Golden {
  std::vector<std::int32_t> tokens;
  std::vector<float> logits;
};

Golden golden(const std::string& name) {
  std::ifstream cases(kModels + "cases.json");
  Golden result;
  for (const auto& entry : nlohmann::json::parse(cases)) {
    if (entry.at("name") != name) continue;
    result.tokens = entry.at("tokens").get<std::vector<std::int32_t>>();
    result.logits.resize(result.tokens.size() * entry.at("vocabulary").get<std::size_t>());
    std::ifstream numbers(kModels + entry.at("logits").get<std::string>(), std::ios::binary);
    numbers.read(reinterpret_cast<char*>(result.logits.data()),
                 static_cast<std::streamsize>(result.logits.size() * sizeof(float)));
  }
  return result;
}

TEST(ScoreRow, UniformLogitsCostTheLogarithmOfTheVocabulary) {
  const std::vector<float> logits(1000, 3.5f);
  EXPECT_NEAR(score_row(logits, 17, {}).nll, std::log(1000.0), 1e-6);
}

TEST(ScoreRow, DivergenceFollowsItsDefinition) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(50);
  std::vector<float> reference(50);
  for (float& x : logits) x = normal(random);
  for (float& x : reference) x = normal(random);
  double sum = 0;
  double reference_sum = 0;
  for (std::size_t i = 0; i < 50; ++i) {
    sum += std::exp(double{logits[i]});
    reference_sum += std::exp(double{reference[i]});
  }
  double expected = 0;
  for (std::size_t i = 0; i < 50; ++i) {
    const double p = std::exp(double{reference[i]}) / reference_sum;
    expected += p * std::log(p / (std::exp(double{logits[i]}) / sum));
  }
  log_softmax(reference);
  const RowScore score = score_row(logits, 3, reference);
  EXPECT_NEAR(score.kl_divergence, expected, 1e-5);
  EXPECT_NEAR(score.nll, std::log(sum) - logits[3], 1e-6);
  EXPECT_NEAR(score.reference_nll, -reference[3], 1e-6);
  EXPECT_FALSE(score.same_top);
  // Against itself: zero, and the same top.
  std::vector<float> itself = logits;
  log_softmax(itself);
  EXPECT_NEAR(score_row(logits, 3, itself).kl_divergence, 0, 1e-7);
  EXPECT_TRUE(score_row(logits, 3, itself).same_top);
  // What the reference cannot tell (-infinity) adds nothing.
  itself[0] = -INFINITY;
  EXPECT_TRUE(std::isfinite(score_row(logits, 3, itself).kl_divergence));
  // A next token below its range counts as the lowest in it.
  EXPECT_NEAR(score_row(logits, 0, itself).reference_nll,
              -*std::min_element(itself.begin() + 1, itself.end()), 1e-6);
}

TEST(Perplexity, OfAUniformModelIsItsVocabulary) {
  // A last norm of zeros makes all logits zero.
  const test::TempDir folder;
  const std::string path = folder / "model.gguf";
  const test::TinyModel tiny;
  GgufWriter file;
  test::add_tiny_config(file, tiny);
  test::add_tiny_vocabulary(file, tiny);
  test::add_tiny_tensors(file, tiny, {"output_norm.weight"});
  const std::vector<float> zeros(static_cast<std::size_t>(tiny.width));
  file.add_tensor("output_norm.weight", Dtype::f32, {tiny.width}, std::as_bytes(std::span(zeros)));
  file.write(path);
  EngineOptions options;
  options.model = path;
  Engine engine(options);
  engine.load();
  Session session(engine, session_options(engine, 32, 8));

  // 100 tokens are three chunks of 32, of which rows 16 to 30 count.
  const std::vector<std::int32_t> tokens = random_tokens(100, test::kTinyVocabulary);
  const PerplexityRows rows = PerplexityRows::llama_cpp(100, 32, 0, -1);
  EXPECT_EQ(rows.chunks, 3);
  EXPECT_EQ(rows.first_row, 16);
  EXPECT_EQ(rows.rows, 15);
  int chunks = 0;
  const auto on_chunk = [&](const PerplexityResult& r) { EXPECT_EQ(r.chunks, ++chunks); };
  const PerplexityResult result = measure_perplexity(session, tokens, rows, nullptr, nullptr,
                                                     {.on_tokens = {}, .on_chunk = on_chunk});
  EXPECT_EQ(chunks, 3);
  EXPECT_EQ(result.tokens, 45);
  EXPECT_EQ(result.compared, 0);
  EXPECT_NEAR(result.perplexity, test::kTinyVocabulary, 1e-3);
  EXPECT_NEAR(result.error, 0, 1e-2);
}

TEST(Perplexity, TwoChunksAreTheLeast) {
  EXPECT_EQ(PerplexityRows::llama_cpp(100, 32, 2, -1).chunks, 2);
  EXPECT_EQ(PerplexityRows::llama_cpp(64, 32, 0, -1).chunks, 2);
  EXPECT_THROW(PerplexityRows::llama_cpp(63, 32, 0, -1), Error);
  EXPECT_THROW(PerplexityRows::llama_cpp(63, 3, 0, -1), Error);
}

TEST(Perplexity, EqualsTransformers) {
  Engine engine(f32_engine(kModels + "llama"));
  engine.load();
  const Golden expected = golden("llama");
  const auto vocabulary = static_cast<std::size_t>(engine.config().vocab_size);
  ASSERT_EQ(expected.tokens.size(), 64u);
  // The whole sequence as one chunk, from its first row: as a file of floats is read.
  double nll = 0;
  double nll_squared = 0;
  for (std::size_t t = 0; t < 63; ++t) {
    double sum = 0;
    for (std::size_t i = 0; i < vocabulary; ++i) {
      sum += std::exp(double{expected.logits[t * vocabulary + i]});
    }
    const double one =
        std::log(sum) -
        expected.logits[t * vocabulary + static_cast<std::size_t>(expected.tokens[t + 1])];
    nll += one / 63;
    nll_squared += one * one / 63;
  }
  const test::TempDir folder;
  const std::string path = folder / "logits.f32";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(expected.logits.data()),
             static_cast<std::streamsize>(expected.logits.size() * sizeof(float)));
  std::ofstream(path + ".json") << nlohmann::json(
      {{"tokens", expected.tokens}, {"vocabulary", vocabulary}});
  const LogitFile file = LogitFile::open(path);
  for (const std::int64_t logit_rows : {1, 7, 64}) {
    Session session(engine, session_options(engine, 64, logit_rows));
    FileReference reference(file);
    const PerplexityResult result = measure_perplexity(
        session, file.tokens(), {.context = 64, .chunks = 1, .first_row = 0, .rows = 64},
        &reference, nullptr);
    EXPECT_EQ(result.tokens, 63);
    EXPECT_EQ(result.compared, 64);
    EXPECT_NEAR(result.perplexity, std::exp(nll), 1e-4 * std::exp(nll));
    EXPECT_NEAR(result.reference_perplexity, std::exp(nll), 1e-4 * std::exp(nll));
    EXPECT_NEAR(result.error, std::exp(nll) * std::sqrt((nll_squared - nll * nll) / 62),
                1e-3 * result.error);
    EXPECT_LT(result.kl_divergence, 1e-6);
    EXPECT_EQ(result.top1_agreement, 1.0);
  }
}

TEST(Perplexity, ARunAgainstItselfDivergesNowhere) {
  Engine engine(f32_engine(kModels + "qwen3"));
  engine.load();
  const std::vector<std::int32_t> tokens = random_tokens(150, engine.config().vocab_size);
  const PerplexityRows rows = PerplexityRows::llama_cpp(150, 48, 0, 3);
  Session session(engine, session_options(engine, 48, 10));
  Session other(engine, session_options(engine, 48, 7));
  SessionReference reference(other);
  const test::TempDir folder;
  const std::string path = folder / "logits";
  LogitFileWriter writer(path, 48, engine.config().vocab_size, std::span(tokens).first(144));
  const PerplexityResult result = measure_perplexity(session, tokens, rows, &reference, &writer);
  writer.commit();
  EXPECT_EQ(result.compared, 3 * 23);
  EXPECT_LT(result.kl_divergence, 1e-9);
  EXPECT_EQ(result.top1_agreement, 1.0);
  EXPECT_NEAR(result.reference_perplexity, result.perplexity, 1e-4);

  // The same through a file: half a code of 16 bits is lost.
  const LogitFile file = LogitFile::open(path);
  FileReference from_file(file);
  const PerplexityResult again =
      measure_perplexity(session, file.tokens(), rows, &from_file, nullptr);
  EXPECT_EQ(again.perplexity, result.perplexity);
  EXPECT_LT(std::abs(again.kl_divergence), 1e-5);
  EXPECT_EQ(again.top1_agreement, 1.0);
}

TEST(Perplexity, TheBeginTokenStandsFirstInEachChunk) {
  Engine engine(f32_engine(kModels + "llama"));
  engine.load();
  std::vector<std::int32_t> tokens = random_tokens(64, engine.config().vocab_size);
  Session session(engine, session_options(engine, 32, 8));
  const double replaced =
      measure_perplexity(session, tokens, PerplexityRows::llama_cpp(64, 32, 0, 1), nullptr, nullptr)
          .perplexity;
  const double plain = measure_perplexity(session, tokens, PerplexityRows::llama_cpp(64, 32, 0, -1),
                                          nullptr, nullptr)
                           .perplexity;
  EXPECT_NE(replaced, plain);
  tokens[0] = tokens[32] = 1;
  EXPECT_EQ(measure_perplexity(session, tokens, PerplexityRows::llama_cpp(64, 32, 0, -1), nullptr,
                               nullptr)
                .perplexity,
            replaced);
}

}  // namespace
}  // namespace sedpa
