#include "sedpa/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sedpa/core/fail.h"

namespace sedpa {

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  const auto& o = options_;
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature)) {
    fail("temperature is {}, expected 0 or more", o.temperature);
  }
  if (o.top_k < 0) fail("top-k is {}, expected 0 (all tokens) or more", o.top_k);
  if (!(o.top_p >= 0 && o.top_p <= 1)) fail("top-p is {}, expected 0 to 1", o.top_p);
  if (!(o.min_p >= 0 && o.min_p <= 1)) fail("min-p is {}, expected 0 to 1", o.min_p);
  if (!(o.repeat_penalty > 0) || !std::isfinite(o.repeat_penalty)) {
    fail("repeat penalty is {}, expected a number above 0", o.repeat_penalty);
  }
  if (o.repeat_window < 0) fail("repeat window is {} tokens, expected 0 or more", o.repeat_window);
}

std::int32_t Sampler::sample(std::span<const float> logits, std::span<const std::int32_t> past) {
  candidates_.resize(logits.size());
  sorted_ = false;
  bool any = false;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float logit = logits[i];
    if (std::isnan(logit) || logit == std::numeric_limits<float>::infinity()) {
      fail("the logit of token {} is {}, expected a number", i, logit);
    }
    any = any || std::isfinite(logit);
    candidates_[i] = {.logit = logit, .id = static_cast<std::int32_t>(i)};
  }
  if (!any) fail("none of {} logits is a finite number", logits.size());

  penalise(past);
  if (options_.temperature == 0) {
    return std::min_element(candidates_.begin(), candidates_.end(), likelier)->id;
  }
  keep_top_k();
  keep_top_p();
  keep_min_p();
  return draw();
}

void Sampler::penalise(std::span<const std::int32_t> past) {
  if (options_.repeat_penalty == 1) return;
  const auto window = static_cast<std::size_t>(options_.repeat_window);
  past = past.last(std::min(window, past.size()));
  std::vector<std::int32_t> recent(past.begin(), past.end());
  std::sort(recent.begin(), recent.end());
  recent.erase(std::unique(recent.begin(), recent.end()), recent.end());
  for (const std::int32_t id : recent) {
    if (id < 0 || static_cast<std::size_t>(id) >= candidates_.size()) continue;
    double& logit = candidates_[static_cast<std::size_t>(id)].logit;
    logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
  }
}

void Sampler::keep_top_k() {
  const auto k = static_cast<std::size_t>(options_.top_k);
  if (k == 0) return;
  const std::size_t kept = std::min(k, candidates_.size());
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(kept),
                    candidates_.end(), likelier);
  candidates_.resize(kept);
  sorted_ = true;
}

void Sampler::keep_top_p() {
  if (options_.top_p >= 1) return;
  if (!sorted_) {
    std::sort(candidates_.begin(), candidates_.end(), likelier);
    sorted_ = true;
  }
  const double highest = candidates_.front().logit;
  double total = 0;
  for (const Candidate& candidate : candidates_) total += std::exp(candidate.logit - highest);
  double sum = 0;
  std::size_t kept = 0;
  while (kept < candidates_.size()) {
    sum += std::exp(candidates_[kept++].logit - highest);
    if (sum >= options_.top_p * total) break;
  }
  candidates_.resize(kept);
}

void Sampler::keep_min_p() {
  if (options_.min_p <= 0) return;
  const double highest = std::min_element(candidates_.begin(), candidates_.end(), likelier)->logit;
  const double lowest = highest + std::log(options_.min_p);
  std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < lowest; });
}

std::int32_t Sampler::draw() {
  const double highest = std::min_element(candidates_.begin(), candidates_.end(), likelier)->logit;
  double total = 0;
  for (Candidate& candidate : candidates_) {
    candidate.logit = std::exp((candidate.logit - highest) / options_.temperature);
    total += candidate.logit;  // a weight from here on
  }
  const double u = static_cast<double>(random_() >> 11) * 0x1p-53;
  double left = u * total;
  std::int32_t last = candidates_.front().id;
  for (const Candidate& candidate : candidates_) {
    if (candidate.logit <= 0) continue;
    last = candidate.id;
    left -= candidate.logit;
    if (left < 0) break;
  }
  return last;  // rounding may leave a crumb of `left`: then the last that has a weight
}

}  // namespace sedpa
