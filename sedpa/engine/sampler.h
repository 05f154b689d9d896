#pragma once
#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace sedpa {

/// How the next token is chosen, in llama.cpp's order: repeat penalty, top-k, top-p, min-p,
/// temperature. Its values for all but the temperature, which is 0 here: greedy, so that a command
/// gives the same text twice.
struct SamplerOptions {
  double temperature = 0;   // 0: the likeliest token; the filters below then change nothing
  std::int32_t top_k = 40;  // the k likeliest; 0: all
  double top_p = 0.95;      // the fewest whose probabilities reach p (Holtzman et al. 2020); 1: all
  double min_p = 0.05;      // those with at least p times the likeliest's probability; 0: all
  double repeat_penalty = 1;  // divides positive logits of recent tokens, multiplies negative ones
                              // (Keskar et al. 2019, CTRL, section 4.1, with llama.cpp's sign rule)
  std::int32_t repeat_window = 64;  // recent tokens that the penalty looks at
  std::uint64_t seed = 0;
};

/// Chooses tokens. Probabilities are formed in double precision; each sampled token takes one
/// number x of std::mt19937_64(seed), whose sequence the standard fixes, as u = (x >> 11) 2^-53 in
/// [0, 1). Equal logits go by the lower id. So the same logits and seed give the same tokens on
/// every machine.
class Sampler {
 public:
  /// Throws Error when a value is outside its range.
  explicit Sampler(const SamplerOptions& options);

  /// The next token after `past`, whose last repeat_window tokens are penalised. Throws Error when
  /// a logit is NaN or positive infinity, or none is finite.
  [[nodiscard]] std::int32_t sample(std::span<const float> logits,
                                    std::span<const std::int32_t> past);

  [[nodiscard]] const SamplerOptions& options() const { return options_; }

 private:
  struct Candidate {
    double logit;
    std::int32_t id;
  };
  static bool likelier(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }
  void penalise(std::span<const std::int32_t> past);
  void keep_top_k();
  void keep_top_p();
  void keep_min_p();
  [[nodiscard]] std::int32_t draw();

  SamplerOptions options_;
  std::mt19937_64 random_;
  std::vector<Candidate> candidates_;
  bool sorted_ = false;  // candidates_, likeliest first
};

}  // namespace sedpa
