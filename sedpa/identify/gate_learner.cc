#include "sedpa/identify/gate_learner.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sedpa {
namespace {

constexpr double kMeanDecay = 0.9;
constexpr double kSquareDecay = 0.999;
constexpr double kEpsilon = 1e-8;
constexpr double kLowestRate = 0.1;  // of the highest

}  // namespace

GateLearner::GateLearner(std::size_t gates, const GateLearning& learning)
    : learning_(learning),
      state_{.gates = std::vector<double>(gates, 1.0),
             .mean = std::vector<double>(gates, 0.0),
             .square = std::vector<double>(gates, 0.0)} {}

double GateLearner::mean_gate() const {
  return std::accumulate(state_.gates.begin(), state_.gates.end(), 0.0) /
         static_cast<double>(state_.gates.size());
}

double GateLearner::rate() const {
  const auto fifth = static_cast<double>(std::max<std::int64_t>(learning_.steps / 5, 1));
  const auto before = static_cast<double>(state_.step);
  const auto after = static_cast<double>(learning_.steps - state_.step);
  const double climb = std::max((before + 1) / fifth, kLowestRate);
  const double fall = std::max(after / fifth, kLowestRate);
  return learning_.learning_rate * std::min({climb, fall, 1.0});
}

void GateLearner::step(std::span<const float> d_gates) {
  const double rate_now = rate();
  const auto made = static_cast<double>(++state_.step);
  const double mean_bias = 1 - std::pow(kMeanDecay, made);
  const double square_bias = 1 - std::pow(kSquareDecay, made);
  const double slope = learning_.regularization / static_cast<double>(state_.gates.size());
  for (std::size_t i = 0; i < state_.gates.size(); ++i) {
    double& gate = state_.gates[i];
    const double gradient = double{d_gates[i]} + (gate > 0 ? slope : 0);
    state_.mean[i] += (1 - kMeanDecay) * (gradient - state_.mean[i]);
    state_.square[i] = kSquareDecay * state_.square[i] + (1 - kSquareDecay) * gradient * gradient;
    gate -= rate_now * (state_.mean[i] / mean_bias) /
            (std::sqrt(state_.square[i] / square_bias) + kEpsilon);
    gate = std::clamp(gate, 0.0, 1.0);
  }
}

}  // namespace sedpa
