#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace sedpa {

/// How gates learn (DuoAttention, arXiv 2410.10819, section 2.2 and its training settings).
struct GateLearning {
  std::int64_t steps = 2000;     // in all: the rate's course depends on it
  double learning_rate = 0.02;   // at its highest
  double regularization = 0.05;  // times the mean of |gate| is added to the loss
};

/// The gates and their optimiser: AdamW (Loshchilov and Hutter, arXiv 1711.05101) with betas 0.9
/// and 0.999, epsilon 1e-8 and no decay of weights. The rate climbs over the first fifth of the
/// steps and falls over the last one, from and to a tenth. After each step gates are clamped to
/// [0, 1]. All of it in doubles, and no more than what is here: kept and given back, it goes on bit
/// for bit.
class GateLearner {
 public:
  struct State {
    std::int64_t step = 0;       // steps made
    std::vector<double> gates;   // in [0, 1]
    std::vector<double> mean;    // of gradients, decaying
    std::vector<double> square;  // of their squares, >= 0

    friend bool operator==(const State&, const State&) = default;
  };

  /// Gates that all stand at 1.
  GateLearner(std::size_t gates, const GateLearning& learning);

  [[nodiscard]] const State& state() const { return state_; }
  /// Sizes must agree.
  void restore(State state) { state_ = std::move(state); }
  [[nodiscard]] double mean_gate() const;
  /// The rate of the next step.
  [[nodiscard]] double rate() const;
  /// One step down the loss, whose gradient without the regularisation is `d_gates`.
  void step(std::span<const float> d_gates);

 private:
  GateLearning learning_;
  State state_;
};

}  // namespace sedpa
