#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sedpa/format/safetensors.h"
#include "tests/support/temp_dir.h"

namespace sedpa::test {

/// One layer, two KV heads of one query head each, head size 4, width 8, written by hand. Head 1
/// copies: the question's query meets the needle's key, and the value tells of the needle. Head 0
/// looks at everything alike.
class CopyingModel {
 public:
  static constexpr std::int32_t kWidth = 8;
  static constexpr std::int32_t kNeedle = 0, kQuestion = 1, kPlain = 2, kVocabulary = 4;

  /// Written into a directory of its own, which is gone with the object.
  CopyingModel() {
    std::ofstream(directory_ / "config.json") << R"({"architectures": ["LlamaForCausalLM"],
      "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
      "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 4,
      "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1e12,
      "hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "float32"})";
    // Every embedding has the same length, so that the norm changes nothing but a factor.
    set("model.embed_tokens.weight", kVocabulary, kWidth,
        {{kNeedle, 0}, {kQuestion, 1}, {kPlain, 2}, {3, 3}}, 1);
    set("model.layers.0.input_layernorm.weight", 0, kWidth, {}, 1);
    set("model.layers.0.post_attention_layernorm.weight", 0, kWidth, {}, 1);
    set("model.norm.weight", 0, kWidth, {}, 1);
    // Number 3 of a head rotates by position / 1e6: hardly at all. Rows 4 to 7 are head 1.
    set("model.layers.0.self_attn.q_proj.weight", 8, kWidth, {{7, 1}}, 10);
    set("model.layers.0.self_attn.k_proj.weight", 8, kWidth, {{7, 0}}, 10);
    // Head 0 passes on that there are tokens, head 1 that there was a needle.
    set("model.layers.0.self_attn.v_proj.weight", 8, kWidth, {{0, 2}, {4, 0}}, 1);
    set("model.layers.0.self_attn.o_proj.weight", kWidth, 8, {{4, 0}, {5, 4}}, 1);
    set("model.layers.0.mlp.gate_proj.weight", 8, kWidth, {}, 0);
    set("model.layers.0.mlp.up_proj.weight", 8, kWidth, {}, 0);
    set("model.layers.0.mlp.down_proj.weight", kWidth, 8, {}, 0);
    set("lm_head.weight", kVocabulary, kWidth, {}, 0);
    SafetensorsWriter writer;
    for (const auto& [name, tensor] : tensors_) {
      writer.add_tensor(name, Dtype::f32, tensor.shape, std::as_bytes(std::span(tensor.numbers)));
    }
    writer.write(directory_ / "model.safetensors");
  }
  CopyingModel(const CopyingModel&) = delete;
  CopyingModel& operator=(const CopyingModel&) = delete;

  [[nodiscard]] std::string directory() const { return directory_.path(); }

 private:
  // A matrix of zeros with `value` at some places; a vector (rows = 0) full of it.
  void set(const std::string& name, std::int64_t rows, std::int64_t cols,
           const std::vector<std::pair<int, int>>& places, float value) {
    Tensor& tensor = tensors_[name];
    tensor.shape = rows > 0 ? std::vector{rows, cols} : std::vector{cols};
    tensor.numbers.assign(static_cast<std::size_t>(std::max<std::int64_t>(rows, 1) * cols),
                          rows > 0 ? 0.0f : value);
    for (const auto& [row, col] : places) {
      tensor.numbers[static_cast<std::size_t>(row * cols + col)] = value;
    }
  }

  struct Tensor {
    std::vector<std::int64_t> shape;
    std::vector<float> numbers;
  };
  std::map<std::string, Tensor> tensors_;
  TempDir directory_;
};

}  // namespace sedpa::test
