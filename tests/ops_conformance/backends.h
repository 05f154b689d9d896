#pragma once
// THE list of backends that the op table runs on. A new machine joins with one entry here.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sedpa/ops/ops.h"

namespace sedpa::conformance {

/// Columns that share one scale where activations are rounded to whole numbers, and the largest of
/// these.
inline constexpr std::int64_t kInt15Block = 32;
inline constexpr std::int64_t kInt15Largest = 127 * 128;

/// What a backend may do to an activation before it multiplies. The bounds follow from it.
enum class Rounding : std::uint8_t {
  none,   // used as the f32 number it is
  bf16,   // rounded to bfloat16
  int15,  // rounded to multiples of max|x| / kInt15Largest of its block of kInt15Block columns
};

struct Backend {
  std::string name;
  std::function<std::unique_ptr<Ops>()> make;
  /// Activations of a linear whose weights are stored like this.
  std::function<Rounding(Dtype weights)> linear_rounding;
  /// Stored numbers of a weight, before they are multiplied: none or bf16.
  std::function<Rounding(Dtype weights)> weight_rounding = [](Dtype) { return Rounding::none; };
  /// Queries, keys, softmax weights and values inside attention: none or bf16.
  Rounding attention_rounding = Rounding::none;
  /// Gradients, and the stored numbers of a weight, before linear_backward multiplies them: none or
  /// bf16.
  std::function<Rounding(Dtype weights)> training_rounding = [](Dtype) { return Rounding::none; };
  /// Scales and mins of the sub-blocks of q4_k, q5_k and q6_k, products of two stored numbers, may
  /// be rounded to f16.
  bool rounds_k_scales = false;
};

/// Every backend that can run on this machine.
[[nodiscard]] const std::vector<Backend>& backends();

}  // namespace sedpa::conformance
