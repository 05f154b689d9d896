#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "sedpa/format/gguf.h"
#include "sedpa/format/safetensors.h"
#include "sedpa/model/config.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

/// The places of a model that hold a matrix or a vector, whatever a file calls them.
enum class Role : std::uint8_t {
  embedding,
  output,
  output_norm,
  attention_norm,
  query,
  key,
  value,
  query_norm,
  key_norm,
  attention_output,
  mlp_norm,
  gate,
  up,
  down,
};

/// Query, key, value and output projection.
[[nodiscard]] constexpr bool is_attention(Role role) {
  return role == Role::query || role == Role::key || role == Role::value ||
         role == Role::attention_output;
}

/// Which of two low-rank factors W = A B a tensor is; `none`: the matrix W itself. Factors stand
/// beside the name of the matrix: NAME.A.weight [rows, rank], NAME.B.weight [rank, cols].
enum class Factor : std::uint8_t { none, a, b };

/// A model's files, opened and checked but not loaded: a GGUF file or a Hugging Face directory.
class Checkpoint {
 public:
  /// Throws Error naming the file and what is wrong with it.
  [[nodiscard]] static Checkpoint open(const std::string& path);

  /// A model's configuration without any files: it holds no tensors and no vocabulary.
  [[nodiscard]] static Checkpoint without_files(ModelConfig config);

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  /// Command line and adapters may change what the file says of positions.
  [[nodiscard]] ModelConfig& config() { return config_; }
  [[nodiscard]] const std::string& path() const { return config_.path; }
  [[nodiscard]] std::uint64_t file_bytes() const;
  /// "gguf", "safetensors" or "none".
  [[nodiscard]] const char* format() const;
  /// The file, when it is one; null for a directory.
  [[nodiscard]] const GgufFile* gguf() const { return gguf_ ? &*gguf_ : nullptr; }
  /// In the order of the files.
  [[nodiscard]] std::span<const TensorInfo> tensors() const;

  /// The tensor in a place, or null; `layer` is ignored outside layers.
  [[nodiscard]] const TensorInfo* find(Role role, std::int32_t layer,
                                       Factor factor = Factor::none) const;
  [[nodiscard]] const TensorInfo* find_bias(Role role, std::int32_t layer) const;
  /// Throws Error when it is missing or its shape is not [rows, cols] (a vector: [cols], rows = 0).
  [[nodiscard]] const TensorInfo& require(Role role, std::int32_t layer, std::int64_t rows,
                                          std::int64_t cols, Factor factor = Factor::none) const;
  /// The rank of the two factors that a place of [rows, cols] is stored as; 0: of no factors.
  /// Throws Error when a factor stands alone or beside the matrix itself, or when the pair is no
  /// smaller than the matrix.
  [[nodiscard]] std::int64_t rank(Role role, std::int32_t layer, std::int64_t rows,
                                  std::int64_t cols) const;
  /// "blk.3.attn_q.weight" or "model.layers.3.self_attn.q_proj.weight".
  [[nodiscard]] std::string tensor_name(Role role, std::int32_t layer,
                                        Factor factor = Factor::none) const;
  [[nodiscard]] std::string bias_name(Role role, std::int32_t layer) const;

  [[nodiscard]] Tokenizer tokenizer() const;
  /// 16 hexadecimal digits over the configuration and samples of every tensor: tells models apart.
  [[nodiscard]] std::string fingerprint() const;

 private:
  Checkpoint() = default;
  [[nodiscard]] std::string place_name(Role role, std::int32_t layer) const;
  [[nodiscard]] const TensorInfo* find_tensor(const std::string& name) const;

  ModelConfig config_;
  std::optional<GgufFile> gguf_;
  std::optional<SafetensorsCheckpoint> safetensors_;
  std::string directory_;
};

/// A place's name in a GGUF file: "blk.3.attn_q.weight".
[[nodiscard]] std::string gguf_tensor_name(Role role, std::int32_t layer);

}  // namespace sedpa
