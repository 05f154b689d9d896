#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "sedpa/engine/session.h"
#include "sedpa/eval/logit_file.h"

namespace sedpa {

/// What another run says about the same rows, to compare with.
class Reference {
 public:
  virtual ~Reference() = default;
  /// Log-probabilities [n, vocab_size] of rows [first, first + n) of a chunk, whose tokens are
  /// `chunk`. Asked for in ascending order, each row once.
  virtual void read(std::int64_t chunk_index, std::span<const std::int32_t> chunk,
                    std::int64_t first, std::int64_t n, std::vector<float>& log_probs) = 0;
};

/// Another session of the same model, run on the same chunks: full attention beside sparse.
class SessionReference : public Reference {
 public:
  /// The session must be of the same vocabulary, and hold a chunk.
  explicit SessionReference(Session& session) : session_(session) {}
  void read(std::int64_t chunk_index, std::span<const std::int32_t> chunk, std::int64_t first,
            std::int64_t n, std::vector<float>& log_probs) override;

 private:
  Session& session_;
};

/// A file of an earlier run, or of another program.
class FileReference : public Reference {
 public:
  explicit FileReference(const LogitFile& file) : file_(file) {}
  void read(std::int64_t chunk_index, std::span<const std::int32_t> chunk, std::int64_t first,
            std::int64_t n, std::vector<float>& log_probs) override;

 private:
  const LogitFile& file_;
};

/// How a text is cut and which rows count.
struct PerplexityRows {
  std::int64_t context = 0;    // tokens of a chunk
  std::int64_t chunks = 0;     //
  std::int64_t first_row = 0;  // rows [first_row, first_row + rows) of each chunk count
  std::int64_t rows = 0;
  std::int32_t begin_token = -1;  // replaces each chunk's first token; -1: nothing does

  /// llama.cpp's protocol (tools/perplexity): chunks of `context` tokens, the begin token in place
  /// of each chunk's first where the model has one, and the second half counted, where each token
  /// has at least half the context before it. Throws Error when the text has fewer than two chunks.
  static PerplexityRows llama_cpp(std::int64_t tokens, std::int64_t context,
                                  std::int64_t max_chunks, std::int32_t begin_token);
};

struct PerplexityResult {
  std::int64_t chunks = 0;
  std::int64_t tokens = 0;  // scored: rows that have a next token
  double perplexity = 0;    // exp of the mean of -log p(next token)
  double error = 0;         // one standard error of the perplexity
  // Only with a reference:
  std::int64_t compared = 0;     // rows
  double kl_divergence = 0;      // mean over rows of sum p_ref (log p_ref - log p)
  double max_kl_divergence = 0;  // of one row
  double top1_agreement = 0;     // share of rows whose most likely token is the reference's
  double reference_perplexity = 0;
};

struct PerplexityCallbacks {
  std::function<void(std::int64_t done, std::int64_t total)> on_tokens;  // may be empty
  std::function<void(const PerplexityResult& so_far)> on_chunk;          // may be empty
};

/// Scores `tokens` [chunks * context or more] with the session, which must hold a chunk and is
/// cleared before each. `reference` and `writer` may be null.
PerplexityResult measure_perplexity(Session& session, std::span<const std::int32_t> tokens,
                                    const PerplexityRows& rows, Reference* reference,
                                    LogitFileWriter* writer,
                                    const PerplexityCallbacks& callbacks = {});

/// One row against its next token and a reference.
struct RowScore {
  double nll = 0;            // -log p(next)
  double reference_nll = 0;  // at least; more where the next token is below the reference's range
  double kl_divergence = 0;
  bool same_top = false;  // the row's most likely token is one of the reference's most likely
};
/// `logits` [vocab_size]; `next` < 0 when there is none; `reference` log-probabilities
/// [vocab_size], or empty.
[[nodiscard]] RowScore score_row(std::span<const float> logits, std::int32_t next,
                                 std::span<const float> reference);

}  // namespace sedpa
