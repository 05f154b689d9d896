#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "sedpa/ops/step.h"

namespace sedpa {

/// How rotary angles are stretched for contexts longer than the first training's.
struct RopeScaling {
  enum class Method : std::uint8_t {
    none,
    linear,  // positions divided by `factor` (Chen et al., arXiv 2306.15595)
    llama3,  // low frequencies divided, high ones kept, a ramp between (Llama 3.1's release)
    yarn,    // "NTK-by-parts" and a temperature (Peng et al., arXiv 2309.00071, sections 3.2-3.4)
  };
  Method method = Method::none;
  double factor = 1.0;
  double original_context = 0;  // tokens of the first training: llama3, yarn
  double low_frequency = 1.0;   // llama3
  double high_frequency = 4.0;  // llama3
  double beta_fast = 32.0;      // yarn: rotations over the original context, upper end of the ramp
  double beta_slow = 1.0;       // yarn: lower end
  double attention_factor = 0;  // yarn: of cos and sin; 0 means 0.1 ln(factor) + 1
};

/// Angles a position for each rotating pair, scaling folded in, formed in f64. `divisors`, when not
/// empty, has dim / 2 numbers that divide the frequencies on top (GGUF's rope_freqs tensor).
/// Throws Error when the sizes disagree.
[[nodiscard]] RopeSpec make_rope(RopeStyle style, std::int32_t dim, double base,
                                 const RopeScaling& scaling, const std::vector<float>& divisors);

/// "none", "linear:4", "yarn:4": the command line's form. Throws Error for anything else.
[[nodiscard]] RopeScaling parse_rope_scaling(const std::string& text, double original_context);

}  // namespace sedpa
