#include "sedpa/eval/perplexity.h"

#include <algorithm>
#include <cmath>

#include "sedpa/core/fail.h"
#include "sedpa/core/thread_pool.h"
#include "sedpa/engine/engine.h"

namespace sedpa {
namespace {

// Sums over rows, in the order of the rows, so that threads do not change the result.
struct Sums {
  std::int64_t scored = 0;
  double nll = 0;
  double nll_squared = 0;
  double reference_nll = 0;
  std::int64_t compared = 0;
  double kl = 0;
  double max_kl = 0;
  std::int64_t same_top = 0;

  void add(const RowScore& row, bool has_next, bool has_reference) {
    if (has_next) {
      ++scored;
      nll += row.nll;
      nll_squared += row.nll * row.nll;
      reference_nll += row.reference_nll;
    }
    if (has_reference) {
      ++compared;
      kl += row.kl_divergence;
      max_kl = std::max(max_kl, row.kl_divergence);
      same_top += row.same_top ? 1 : 0;
    }
  }

  [[nodiscard]] PerplexityResult result(std::int64_t chunks) const {
    PerplexityResult r{.chunks = chunks, .tokens = scored};
    const auto n = static_cast<double>(scored);
    if (scored > 0) r.perplexity = std::exp(nll / n);
    if (scored > 1) {
      const double variance = std::max(0.0, nll_squared / n - (nll / n) * (nll / n));
      r.error = r.perplexity * std::sqrt(variance / (n - 1));
    }
    if (compared > 0) {
      const auto m = static_cast<double>(compared);
      r.compared = compared;
      r.kl_divergence = kl / m;
      r.max_kl_divergence = max_kl;
      r.top1_agreement = static_cast<double>(same_top) / m;
      if (scored > 0) r.reference_perplexity = std::exp(reference_nll / n);
    }
    return r;
  }
};

}  // namespace

void SessionReference::read(std::int64_t, std::span<const std::int32_t> chunk, std::int64_t first,
                            std::int64_t n, std::vector<float>& log_probs) {
  const auto part = [&](std::int64_t begin, std::int64_t end) {
    return chunk.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  };
  if (first < session_.length() || session_.length() == 0) session_.clear();
  if (first > session_.length()) session_.append(part(session_.length(), first));
  const auto vocabulary = static_cast<std::size_t>(session_.engine().config().vocab_size);
  log_probs.resize(static_cast<std::size_t>(n) * vocabulary);
  session_.evaluate(part(first, first + n), [&](std::int64_t row, std::span<const float> logits) {
    float* out = log_probs.data() + static_cast<std::size_t>(row) * vocabulary;
    std::copy(logits.begin(), logits.end(), out);
    for (std::size_t i = 0; i < logits.size(); i += vocabulary) log_softmax({out + i, vocabulary});
  });
}

void FileReference::read(std::int64_t chunk_index, std::span<const std::int32_t>,
                         std::int64_t first, std::int64_t n, std::vector<float>& log_probs) {
  const auto vocabulary = static_cast<std::size_t>(file_.vocab_size());
  log_probs.resize(static_cast<std::size_t>(n) * vocabulary);
  for (std::int64_t i = 0; i < n; ++i) {
    file_.read(chunk_index, first + i, log_probs.data() + static_cast<std::size_t>(i) * vocabulary);
  }
}

PerplexityRows PerplexityRows::llama_cpp(std::int64_t tokens, std::int64_t context,
                                         std::int64_t max_chunks, std::int32_t begin_token) {
  if (context < 4) fail("chunks of {} tokens, expected at least 4", context);
  if (tokens < 2 * context) {
    fail("the text has {} tokens, expected at least {}: two chunks of --context {}", tokens,
         2 * context, context);
  }
  const std::int64_t chunks = tokens / context;
  return {.context = context,
          .chunks = max_chunks > 0 ? std::min(chunks, max_chunks) : chunks,
          .first_row = context / 2,
          .rows = context - 1 - context / 2,
          .begin_token = begin_token};
}

RowScore score_row(std::span<const float> logits, std::int32_t next,
                   std::span<const float> reference) {
  const auto top = std::max_element(logits.begin(), logits.end());
  const float highest = *top;
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - highest);
  const double shift = highest + std::log(sum);  // log p = logit - shift
  RowScore score;
  if (next >= 0) score.nll = shift - logits[static_cast<std::size_t>(next)];
  if (reference.empty()) return score;
  double kl = 0;
  float reference_highest = reference[0];
  float reference_lowest = INFINITY;  // of those that it can say
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const float log_p = reference[i];
    reference_highest = std::max(reference_highest, log_p);
    if (std::isinf(log_p)) continue;  // p = 0, or below what the reference can say
    reference_lowest = std::min(reference_lowest, log_p);
    // p log(p / q), less p - q. That adds up to nothing where both add up to 1; but log p is
    // rounded to f32 or to a code of 16 bits, or cut, and so p misses 1 by more than small
    // divergences are. With it the rounding counts by its square.
    const double log_q = logits[i] - shift;
    const double p = std::exp(static_cast<double>(log_p));
    kl += p * (log_p - log_q) - p + std::exp(log_q);
  }
  score.kl_divergence = kl;
  if (next >= 0) {
    score.reference_nll = -std::max(reference[static_cast<std::size_t>(next)], reference_lowest);
  }
  score.same_top = reference[static_cast<std::size_t>(top - logits.begin())] == reference_highest;
  return score;
}

PerplexityResult measure_perplexity(Session& session, std::span<const std::int32_t> tokens,
                                    const PerplexityRows& rows, Reference* reference,
                                    LogitFileWriter* writer, const PerplexityCallbacks& callbacks) {
  const auto vocabulary = static_cast<std::size_t>(session.engine().config().vocab_size);
  ThreadPool pool(session.engine().threads());
  Sums sums;
  std::vector<float> reference_rows;
  std::vector<RowScore> scores;
  std::vector<std::int32_t> chunk(static_cast<std::size_t>(rows.context));
  const std::int64_t end_row = rows.first_row + rows.rows;
  const std::int64_t total = rows.chunks * end_row;

  for (std::int64_t index = 0; index < rows.chunks; ++index) {
    const auto from = tokens.begin() + index * rows.context;
    std::copy(from, from + rows.context, chunk.begin());
    if (rows.begin_token >= 0) chunk[0] = rows.begin_token;
    const auto told = [&](std::int64_t done) {
      if (callbacks.on_tokens) callbacks.on_tokens(index * end_row + done, total);
    };
    session.clear();
    if (rows.first_row > 0) {
      session.append(std::span(chunk).first(static_cast<std::size_t>(rows.first_row)), told);
    }
    const auto counted = std::span(chunk).subspan(static_cast<std::size_t>(rows.first_row),
                                                  static_cast<std::size_t>(rows.rows));
    session.evaluate(counted, [&](std::int64_t done, std::span<const float> logits) {
      const std::int64_t first = rows.first_row + done;
      const auto n = static_cast<std::int64_t>(logits.size() / vocabulary);
      // The session's logits stay as they are while another session runs.
      if (reference) reference->read(index, chunk, first, n, reference_rows);
      const auto next = [&](std::int64_t i) {
        const auto at = static_cast<std::size_t>(first + i + 1);
        return at < chunk.size() ? chunk[at] : -1;
      };
      scores.assign(static_cast<std::size_t>(n), {});
      pool.for_each(n, [&](std::int64_t i, int) {
        const auto at = static_cast<std::size_t>(i) * vocabulary;
        scores[static_cast<std::size_t>(i)] =
            score_row(logits.subspan(at, vocabulary), next(i),
                      reference ? std::span<const float>(reference_rows).subspan(at, vocabulary)
                                : std::span<const float>());
      });
      for (std::int64_t i = 0; i < n; ++i) {
        sums.add(scores[static_cast<std::size_t>(i)], next(i) >= 0, reference != nullptr);
      }
      if (writer) writer->write(logits);
      told(first + n);
    });
    if (callbacks.on_chunk) callbacks.on_chunk(sums.result(index + 1));
  }
  return sums.result(rows.chunks);
}

}  // namespace sedpa
