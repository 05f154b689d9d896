#pragma once
// What tests of whole compressed models look at.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sedpa/compress/compress.h"
#include "sedpa/engine/session.h"
#include "tests/support/f32_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {

inline const CompressProgress kSilent = [](const char*, std::int64_t, std::int64_t) {};

inline std::vector<std::int32_t> some_tokens(std::int64_t count, std::uint32_t seed) {
  return random_tokens(count, kTinyVocabulary, seed);
}

inline CalibrationText some_text() {
  CalibrationText text;
  for (std::uint32_t i = 0; i < 4; ++i) text.sequences.push_back(some_tokens(64, i));
  text.running = {{.tokens = some_tokens(48, 10), .rows = {{16, 32}}}};
  text.retrieving = {{.tokens = some_tokens(48, 11), .rows = {{20, 4}, {40, 8}}}};
  text.name = "some";
  text.fingerprint = "0123456789abcdef";
  return text;
}

/// Logits of all rows; `heads` empty: full attention.
inline std::vector<float> logits_of(const std::string& model,
                                    const std::vector<std::int32_t>& tokens,
                                    const std::optional<HeadPlan>& heads = {},
                                    KvDtype kv = KvDtype::f32) {
  Engine engine(f32_engine(model));
  engine.load();
  const auto count = static_cast<std::int64_t>(tokens.size());
  Session session(engine, {.context = count,
                           .heads = heads.value_or(engine.full_plan()),
                           .kv = kv,
                           .chunk = count,
                           .logit_rows = count});
  std::vector<float> all;
  session.evaluate(tokens, [&](std::int64_t, std::span<const float> rows) {
    all.insert(all.end(), rows.begin(), rows.end());
  });
  return all;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(double{a[i]} - double{b[i]}));
  }
  return largest;
}

/// KL of the second from the first over rows of a probe, from logits of whole files.
inline double divergence(const std::vector<float>& p, const std::vector<float>& q,
                         const Probe& probe) {
  const auto log_softmax = [](const float* logits) {
    std::vector<double> row(logits, logits + kTinyVocabulary);
    const double most = *std::ranges::max_element(row);
    double sum = 0;
    for (const double x : row) sum += std::exp(x - most);
    for (double& x : row) x -= most + std::log(sum);
    return row;
  };
  double sum = 0;
  std::int64_t rows = 0;
  for (const RowRange& range : probe.rows) {
    for (std::int64_t i = range.first; i < range.first + range.count; ++i, ++rows) {
      const auto a = log_softmax(p.data() + i * kTinyVocabulary);
      const auto b = log_softmax(q.data() + i * kTinyVocabulary);
      for (std::size_t k = 0; k < a.size(); ++k) sum += std::exp(a[k]) * (a[k] - b[k]);
    }
  }
  return sum / static_cast<double>(rows);
}

/// The divergence of one file's model from another's, from 16-bit caches, as compress measures it.
inline double measured_divergence(const std::string& model, const std::string& output,
                                  const Probe& probe, const std::optional<HeadPlan>& heads = {}) {
  return divergence(logits_of(model, probe.tokens, heads, KvDtype::f16),
                    logits_of(output, probe.tokens, heads, KvDtype::f16), probe);
}

}  // namespace sedpa::test
