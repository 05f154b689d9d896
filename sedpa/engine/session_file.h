#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/core/dtype.h"
#include "sedpa/engine/session.h"
#include "sedpa/format/mapped_file.h"

namespace sedpa {

/// Writes what a session holds to a file: its tokens, the keys and values that are occupied, and
/// the logits of the last token. The file appears under its name only when it is complete. Throws
/// Error naming the path when it cannot be written, or the session is empty.
///
/// Format, little endian:
///   8 bytes "SEDPASES", u32 version 1, u32 length of the header in bytes, u64 FNV-1a of what
///   follows up to the keys and values; then
///   the header, a JSON object: model (Engine::fingerprint), kv_dtype, head_dim, layers, kv_heads,
///     vocab_size, head_plan (its hash), heads (the plan in words), tokens, and rows: how many rows
///     each head class has;
///   tokens i32 [tokens]; logits f32 [vocab_size];
///   for each class that is a window: the position of each row, i32 [rows];
///   for each class, for each layer: keys and then values, [heads, rows, row bytes], rows as in
///     attention/kv_policy.h. Row r of a full class is position r.
void save_session(const std::string& path, const Session& session);

/// A session file, opened and checked as far as it can be without a model.
class SessionFile {
 public:
  /// Throws Error naming the path, what was found and what was expected.
  [[nodiscard]] static SessionFile open(const std::string& path);
  /// The same from memory; `name` stands for the path.
  [[nodiscard]] static SessionFile parse(std::vector<std::byte> bytes, std::string name);

  [[nodiscard]] const std::vector<std::int32_t>& tokens() const { return tokens_; }
  /// Throws Error, naming both values, when the file is of another model, head plan or KV type
  /// than the session's would be.
  void require_match(const Engine& engine, const SessionOptions& options) const;
  /// Throws Error saying where they part when the saved tokens are not a prefix of `prompt`.
  void require_prefix_of(std::span<const std::int32_t> prompt) const;
  /// Takes the file's state up in `session`, whose context may be another than the one it was saved
  /// from. Throws Error, with the session as it was, when something does not fit.
  void restore(Session& session) const;

 private:
  explicit SessionFile(MappedFile file) : file_(std::move(file)) {}
  void read();
  [[nodiscard]] std::span<const std::byte> take(std::uint64_t count, std::uint64_t size,
                                                const char* what);

  MappedFile file_;
  std::size_t at_ = 0;  // where `take` goes on

  std::string model_;
  std::string heads_;
  std::string head_plan_;
  std::string kv_;
  std::int64_t head_dim_ = 0;
  std::int64_t vocab_size_ = 0;
  std::array<std::int64_t, kHeadClasses> rows_ = {};
  std::array<bool, kHeadClasses> window_ = {};
  std::vector<std::int32_t> tokens_;                               // [tokens]
  std::vector<float> logits_;                                      // [vocab_size]
  std::array<std::vector<std::int32_t>, kHeadClasses> positions_;  // [rows] of window classes
};

}  // namespace sedpa
