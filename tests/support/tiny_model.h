#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "sedpa/core/dtype.h"
#include "sedpa/format/gguf_writer.h"

namespace sedpa::test {

/// A Llama of a few thousand seeded random numbers with a byte-level vocabulary: every byte is a
/// token (ids 0 to 255, in the order of their value), then a few words, then the special tokens.
struct TinyModel {
  std::int32_t layers = 2;
  std::int32_t width = 32;
  std::int32_t query_heads = 4;
  std::int32_t kv_heads = 2;
  std::int32_t head_dim = 8;
  std::int32_t mlp_width = 64;
  std::int64_t context = 128;
  Dtype dtype = Dtype::f32;  // of the matrices
  std::uint64_t seed = 1;
  std::string architecture = "llama";
  bool begin_token = false;   // the tokenizer puts <|endoftext|> in front
  bool chat_template = true;  // ChatML
};

inline constexpr std::int32_t kTinyWords = 256;      // " t", " th", " the" and "he"
inline constexpr std::int32_t kTinyEndOfText = 260;  // <|endoftext|>
inline constexpr std::int32_t kTinyTurnStart = 261;  // <|im_start|>
inline constexpr std::int32_t kTinyTurnEnd = 262;    // <|im_end|>, the end token
inline constexpr std::int32_t kTinyVocabulary = 263;

/// Shapes of the model's matrices: name, rows, cols.
struct TinyTensor {
  std::string name;
  std::vector<std::int64_t> shape;  // outermost first
};
[[nodiscard]] std::vector<TinyTensor> tiny_tensors(const TinyModel& model);

/// Metadata of the configuration, of the vocabulary, and the tensors except those in `leave_out`.
void add_tiny_config(GgufWriter& file, const TinyModel& model);
void add_tiny_vocabulary(GgufWriter& file, const TinyModel& model);
void add_tiny_tensors(GgufWriter& file, const TinyModel& model,
                      const std::vector<std::string>& leave_out = {});

/// All three, written to `path`.
void write_tiny_model(const std::string& path, const TinyModel& model = {});
/// A file that holds only the vocabulary.
void write_tiny_vocabulary(const std::string& path, const TinyModel& model = {});
/// A LoRA adapter of `rank` for the query and MLP down matrices, in llama.cpp's GGUF form.
void write_tiny_adapter(const std::string& path, const TinyModel& model, std::int32_t rank = 2,
                        std::int64_t context_length = 0);
/// A directory with an attention pattern of seeded gates.
void write_tiny_pattern(const std::string& directory, std::int32_t layers, std::int32_t kv_heads,
                        std::int32_t sink = 4, std::int32_t recent = 8);

}  // namespace sedpa::test
