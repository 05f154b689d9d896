#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sedpa/format/gguf.h"
#include "sedpa/model/checkpoint.h"

namespace sedpa {

/// What `--lora FILE[:scale]` names.
struct LoraRequest {
  std::string path;
  float scale = 1.0f;

  /// Splits "FILE:0.5"; a colon that no number follows belongs to the name.
  static LoraRequest parse(const std::string& text);
};

/// A low-rank adapter (Hu et al., arXiv 2106.09685) in llama.cpp's GGUF form: for a matrix W it
/// adds scale * alpha / rank * B A, from tensors NAME.lora_a [rank, in] and NAME.lora_b [out,
/// rank].
class LoraAdapter {
 public:
  /// Opens the file and checks that each of its tensors fits the checkpoint. Throws Error naming
  /// the adapter, the tensor, what was found and what the model expects.
  static LoraAdapter open(const LoraRequest& request, const Checkpoint& checkpoint);

  /// Whether it changes the matrix in a place.
  [[nodiscard]] bool changes(Role role, std::int32_t layer) const;
  /// row += scale * (B A)[row] for `count` rows from `first` of the matrix in a place;
  /// rows [count, cols] f32.
  void add_to(Role role, std::int32_t layer, std::int64_t first, std::int64_t count,
              std::int64_t cols, float* rows) const;

  [[nodiscard]] const std::string& path() const { return file_.path(); }
  /// 16 hexadecimal digits over the factors and the scale.
  [[nodiscard]] std::string fingerprint() const;
  /// What the adapter says of the positions it was trained on.
  [[nodiscard]] std::optional<std::int64_t> context_length() const { return context_length_; }
  [[nodiscard]] std::optional<double> rope_base() const { return rope_base_; }

 private:
  struct Factors {
    std::int64_t rank = 0;
    float scale = 0;
    std::vector<float> a;  // [rank, in]
    std::vector<float> b;  // [out, rank], rows in the checkpoint's order
  };
  explicit LoraAdapter(GgufFile file) : file_(std::move(file)) {}
  [[nodiscard]] const Factors* find(Role role, std::int32_t layer) const;

  GgufFile file_;
  std::vector<std::pair<std::string, Factors>> factors_;  // by GGUF tensor name, ascending
  std::optional<std::int64_t> context_length_;
  std::optional<double> rope_base_;
};

}  // namespace sedpa
