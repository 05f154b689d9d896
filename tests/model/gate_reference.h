#pragma once
// The whole training loss of a model and its gradient with respect to every gate, in doubles: the
// forward and backward of every row, from the plain operations of tests/ops_conformance.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/model/checkpoint.h"
#include "tests/ops_conformance/reference.h"

namespace sedpa::test {

class GateReference {
 public:
  explicit GateReference(const Checkpoint& checkpoint);

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  /// The mean squared difference of the last hidden states at `rows`. gates [layers, kv_heads].
  /// d_gates, when given, is what backward gives for them.
  [[nodiscard]] double loss(std::span<const std::int32_t> tokens,
                            std::span<const std::int64_t> rows, const HeadClass& window,
                            std::span<const double> gates,
                            std::vector<double>* d_gates = nullptr) const;

 private:
  struct Layer {
    std::vector<float> attention_norm, query_norm, key_norm, mlp_norm;
    conformance::Matrix qkv, output, gate_up, down;
    std::vector<float> qkv_bias;
  };
  /// What a layer's forward leaves for its backward.
  struct Kept {
    conformance::Matrix x, raw_heads, heads, windowed, x_mid, gate_up;
  };

  [[nodiscard]] conformance::Matrix heads(const Layer& layer, const conformance::Matrix& x,
                                          conformance::Matrix* raw) const;
  [[nodiscard]] conformance::Matrix finish(const Layer& layer, const conformance::Matrix& x,
                                           const conformance::Matrix& o, Kept* kept) const;
  [[nodiscard]] conformance::Matrix head_norms_backward(const Layer& layer,
                                                        const conformance::Matrix& raw,
                                                        const conformance::Matrix& d) const;
  [[nodiscard]] conformance::Matrix hidden(const conformance::Matrix& x,
                                           std::span<const std::int64_t> rows) const;

  ModelConfig config_;
  conformance::Matrix embedding_;
  std::vector<Layer> layers_;
  std::vector<float> output_norm_;
};

}  // namespace sedpa::test
