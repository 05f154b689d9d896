#include "sedpa/model/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

// Llama 3.1: wavelengths beyond the original context are divided, those well inside are kept.
double llama3_frequency(double frequency, const RopeScaling& s) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength > s.original_context / s.low_frequency) return frequency / s.factor;
  if (wavelength < s.original_context / s.high_frequency) return frequency;
  const double smooth =
      (s.original_context / wavelength - s.low_frequency) / (s.high_frequency - s.low_frequency);
  return (1 - smooth) * frequency / s.factor + smooth * frequency;
}

// The pair whose angle makes `rotations` turns over the original context; fractional.
double yarn_pair(double rotations, std::int32_t dim, double base, double original_context) {
  return dim * std::log(original_context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(base));
}

}  // namespace

RopeSpec make_rope(RopeStyle style, std::int32_t dim, double base, const RopeScaling& scaling,
                   const std::vector<float>& divisors) {
  const auto pairs = static_cast<std::size_t>(dim / 2);
  if (!divisors.empty() && divisors.size() != pairs) {
    fail("rope_freqs holds {} numbers, but {} rotating dimensions need {}", divisors.size(), dim,
         pairs);
  }
  RopeSpec rope{.style = style, .dim = dim, .inverse_frequency = {}, .magnitude = 1.0};
  rope.inverse_frequency.resize(pairs);
  double low = 0;
  double high = 0;
  if (scaling.method == RopeScaling::Method::yarn) {
    low = std::floor(yarn_pair(scaling.beta_fast, dim, base, scaling.original_context));
    high = std::ceil(yarn_pair(scaling.beta_slow, dim, base, scaling.original_context));
    low = std::max(low, 0.0);
    high = std::min(high, dim - 1.0);
    if (low == high) high += 0.001;
    rope.magnitude = scaling.attention_factor != 0 ? scaling.attention_factor
                     : scaling.factor > 1          ? 0.1 * std::log(scaling.factor) + 1.0
                                                   : 1.0;
  }
  for (std::size_t i = 0; i < pairs; ++i) {
    double frequency = std::pow(base, -2.0 * static_cast<double>(i) / dim);
    switch (scaling.method) {
      case RopeScaling::Method::none:
        break;
      case RopeScaling::Method::linear:
        frequency /= scaling.factor;
        break;
      case RopeScaling::Method::llama3:
        frequency = llama3_frequency(frequency, scaling);
        break;
      case RopeScaling::Method::yarn: {
        const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        frequency = frequency / scaling.factor * ramp + frequency * (1 - ramp);
        break;
      }
    }
    if (!divisors.empty()) frequency /= divisors[i];
    rope.inverse_frequency[i] = frequency;
  }
  return rope;
}

RopeScaling parse_rope_scaling(const std::string& text, double original_context) {
  RopeScaling scaling;
  if (text == "none") return scaling;
  const std::size_t colon = text.find(':');
  const std::string method = text.substr(0, colon);
  char* end = nullptr;
  const std::string number = colon == std::string::npos ? "" : text.substr(colon + 1);
  scaling.factor = std::strtod(number.c_str(), &end);
  const bool is_number = !number.empty() && *end == '\0' && std::isfinite(scaling.factor);
  if ((method != "linear" && method != "yarn") || !is_number || scaling.factor < 1) {
    fail("RoPE scaling is '{}', expected none, linear:F or yarn:F with a factor F >= 1", text);
  }
  scaling.method = method == "linear" ? RopeScaling::Method::linear : RopeScaling::Method::yarn;
  scaling.original_context = original_context;
  return scaling;
}

}  // namespace sedpa
