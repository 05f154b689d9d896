#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sedpa/format/atomic_file.h"
#include "sedpa/format/mapped_file.h"

namespace sedpa {

/// What another run said about the next token, row by row: a text cut into chunks of `context`
/// tokens, and for some rows of each chunk the probabilities of all tokens. Two formats are read:
///  - llama.cpp's `llama-perplexity --kl-divergence-base` file: log-probabilities in 16 bits, down
///    to 16 below the highest, of the rows [context / 2, context - 1) of each chunk;
///  - plain little-endian f32 logits or log-probabilities [tokens, vocabulary] of one chunk, with
///    the token ids in PATH.json, as tests/reference/hf_logits.py writes them.
class LogitFile {
 public:
  /// Throws Error naming the file, the field, what was found and what was expected.
  static LogitFile open(const std::string& path);
  /// The same over memory. `json` is the text of PATH.json, empty for llama.cpp's format.
  static LogitFile parse(MappedFile file, std::string_view json);

  [[nodiscard]] std::int64_t context() const { return context_; }
  [[nodiscard]] std::int64_t chunks() const { return chunks_; }
  [[nodiscard]] std::int64_t vocab_size() const { return vocab_size_; }
  /// The rows of each chunk that are here: [first_row, first_row + rows).
  [[nodiscard]] std::int64_t first_row() const { return first_row_; }
  [[nodiscard]] std::int64_t rows() const { return rows_; }
  /// [chunks, context]
  [[nodiscard]] const std::vector<std::int32_t>& tokens() const { return tokens_; }
  /// Log-probabilities [vocab_size] of a row, counted from the chunk's first; -infinity where the
  /// file says only that they are below its range.
  void read(std::int64_t chunk, std::int64_t row, float* log_probs) const;

 private:
  explicit LogitFile(MappedFile file) : file_(std::move(file)) {}
  void parse_llama_cpp();
  void parse_floats(std::string_view json);
  void check_tokens() const;

  MappedFile file_;
  bool floats_ = false;
  std::int64_t context_ = 0;
  std::int64_t chunks_ = 0;
  std::int64_t vocab_size_ = 0;
  std::int64_t first_row_ = 0;
  std::int64_t rows_ = 0;
  std::vector<std::int32_t> tokens_;
  std::size_t data_ = 0;       // offset of the first row
  std::size_t row_bytes_ = 0;  // of one row
};

/// Writes llama.cpp's format. Chunks and rows come in order; the file appears with commit().
class LogitFileWriter {
 public:
  /// `tokens` [chunks, context]. Throws Error.
  LogitFileWriter(const std::string& path, std::int64_t context, std::int64_t vocab_size,
                  std::span<const std::int32_t> tokens);
  /// Logits [n, vocab_size] of the next rows.
  void write(std::span<const float> logits);
  void commit() { file_.commit(); }

 private:
  AtomicFile file_;
  std::int64_t vocab_size_;
  std::vector<std::uint16_t> row_;
};

/// In place: logits [n] to log-probabilities.
void log_softmax(std::span<float> logits);

}  // namespace sedpa
