#include "sedpa/engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "sedpa/core/error.h"

namespace sedpa {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Seeded numbers roughly like a model's logits.
std::vector<float> some_logits(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> logits(count);
  for (float& logit : logits) {
    logit = static_cast<float>(static_cast<double>(random() % 10000) / 1000.0 - 5.0);
  }
  return logits;
}

// The distribution that the chain of filters leaves, written step by step as llama.cpp documents
// it: penalties, top-k, top-p, min-p, temperature. Every step forms all probabilities anew.
std::map<std::int32_t, long double> reference(const SamplerOptions& o,
                                              const std::vector<float>& logits,
                                              const std::vector<std::int32_t>& past) {
  struct Token {
    std::int32_t id;
    long double logit;
  };
  std::vector<Token> tokens;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    tokens.push_back({static_cast<std::int32_t>(i), logits[i]});
  }
  const std::size_t window = std::min<std::size_t>(past.size(), o.repeat_window);
  const std::set<std::int32_t> recent(past.end() - static_cast<std::ptrdiff_t>(window), past.end());
  for (Token& token : tokens) {
    if (!recent.contains(token.id)) continue;
    token.logit = token.logit > 0 ? token.logit / o.repeat_penalty : token.logit * o.repeat_penalty;
  }
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const Token& a, const Token& b) { return a.logit > b.logit; });
  if (o.top_k > 0 && static_cast<std::size_t>(o.top_k) < tokens.size()) {
    tokens.resize(static_cast<std::size_t>(o.top_k), Token{});
  }
  const auto probabilities = [&](long double temperature) {
    std::vector<long double> p;
    for (const Token& token : tokens) p.push_back(std::exp(token.logit / temperature));
    const long double sum = std::accumulate(p.begin(), p.end(), 0.0L);
    for (long double& value : p) value /= sum;
    return p;
  };
  if (o.top_p < 1) {
    const auto p = probabilities(1);
    long double sum = 0;
    std::size_t kept = 0;
    while (kept < tokens.size() && sum < o.top_p) sum += p[kept++];
    tokens.resize(std::max<std::size_t>(kept, 1), Token{});
  }
  if (o.min_p > 0) {
    const auto p = probabilities(1);
    std::size_t kept = 0;
    while (kept < tokens.size() && p[kept] >= o.min_p * p[0] * (1 - 1e-12L)) ++kept;
    tokens.resize(kept, Token{});
  }
  const auto p = probabilities(o.temperature);
  std::map<std::int32_t, long double> result;
  for (std::size_t i = 0; i < tokens.size(); ++i) result[tokens[i].id] = p[i];
  return result;
}

TEST(Sampler, TakesTheLikeliestWithoutTemperature) {
  Sampler sampler({});
  EXPECT_EQ(sampler.sample(std::vector<float>{0.5f, 3.0f, -1.0f, 2.0f}, {}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-7.0f, -kInfinity, -6.5f}, {}), 2);
}

TEST(Sampler, GivesEqualLogitsToTheLowestId) {
  Sampler sampler({});
  EXPECT_EQ(sampler.sample(std::vector<float>{1.0f, 4.0f, 4.0f, 4.0f}, {}), 1);
}

TEST(Sampler, DrawsFromTheReferenceDistribution) {
  const std::vector<float> logits = some_logits(50, 3);
  const std::vector<std::int32_t> past = {4, 9, 9, 17, 30, 31, 32};
  const SamplerOptions cases[] = {
      {.temperature = 1.0, .top_k = 0, .top_p = 1.0, .min_p = 0.0},
      {.temperature = 0.7, .top_k = 5, .top_p = 1.0, .min_p = 0.0},
      {.temperature = 1.5, .top_k = 0, .top_p = 0.8, .min_p = 0.0},
      {.temperature = 2.0, .top_k = 0, .top_p = 1.0, .min_p = 0.2},
      {.temperature = 0.8},
      {.temperature = 1.3, .top_k = 20, .top_p = 0.9, .min_p = 0.1, .repeat_penalty = 1.3},
      {.temperature = 1.0,
       .top_k = 0,
       .top_p = 1.0,
       .min_p = 0.0,
       .repeat_penalty = 2.0,
       .repeat_window = 3},
      {.temperature = 1.0, .top_k = 3, .top_p = 0.0, .min_p = 0.0},
  };
  for (const SamplerOptions& options : cases) {
    const auto expected = reference(options, logits, past);
    Sampler sampler(options);
    constexpr int kDraws = 40000;
    std::map<std::int32_t, int> counts;
    for (int i = 0; i < kDraws; ++i) ++counts[sampler.sample(logits, past)];
    for (const auto& [id, count] : counts) {
      EXPECT_TRUE(expected.contains(id)) << "token " << id << " was filtered out";
    }
    for (const auto& [id, p] : expected) {
      const double error = std::abs(counts[id] / double{kDraws} - static_cast<double>(p));
      const double sigma = std::sqrt(static_cast<double>(p * (1 - p)) / kDraws);
      EXPECT_LE(error, 5 * sigma + 1e-9) << "token " << id;
    }
  }
}

// The documented use of the random numbers: with four equal tokens, u in [0, 1/4) is the first.
TEST(Sampler, UsesOneDocumentedNumberEachTime) {
  const SamplerOptions options{.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 42};
  Sampler sampler(options);
  std::mt19937_64 random(42);
  const std::vector<float> logits(4, 0.25f);
  for (int i = 0; i < 200; ++i) {
    const double u = std::ldexp(static_cast<double>(random() >> 11), -53);
    EXPECT_EQ(sampler.sample(logits, {}), static_cast<std::int32_t>(u * 4));
  }
}

TEST(Sampler, RepeatsItselfWithTheSameSeedOnly) {
  const std::vector<float> logits = some_logits(1000, 5);
  const auto draw = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 1.2, .seed = seed});
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(sampler.sample(logits, ids));
    return ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sampler, PenalisesOnlyTheWindow) {
  Sampler sampler({.repeat_penalty = 10, .repeat_window = 2});
  const std::vector<float> logits = {3.0f, 2.9f, 2.8f, -1.0f};
  EXPECT_EQ(sampler.sample(logits, std::vector<std::int32_t>{0, 1, 2}), 0);
  EXPECT_EQ(sampler.sample(logits, std::vector<std::int32_t>{2, 0, 1}), 2);
  EXPECT_EQ(sampler.sample(logits, std::vector<std::int32_t>{0, 0}), 1);
}

TEST(Sampler, RefusesLogitsThatAreNoNumbers) {
  Sampler sampler({.temperature = 1});
  EXPECT_THROW((void)sampler.sample(std::vector<float>{1.0f, NAN}, {}), Error);
  EXPECT_THROW((void)sampler.sample(std::vector<float>{1.0f, kInfinity}, {}), Error);
  EXPECT_THROW((void)sampler.sample(std::vector<float>{-kInfinity, -kInfinity}, {}), Error);
  EXPECT_THROW((void)sampler.sample({}, {}), Error);
}

TEST(Sampler, RefusesValuesOutOfRange) {
  EXPECT_THROW(Sampler({.temperature = -1}), Error);
  EXPECT_THROW(Sampler({.temperature = NAN}), Error);
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({.top_p = 1.5}), Error);
  EXPECT_THROW(Sampler({.min_p = -0.1}), Error);
  EXPECT_THROW(Sampler({.repeat_penalty = 0}), Error);
  EXPECT_THROW(Sampler({.repeat_window = -1}), Error);
}

}  // namespace
}  // namespace sedpa
