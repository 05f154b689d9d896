#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sedpa/engine/sampler.h"
#include "sedpa/engine/session.h"
#include "sedpa/tokenizer/chat_template.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {

struct GenerateOptions {
  std::int64_t max_tokens = 256;  // >= 0; 0 only reads the prompt
  SamplerOptions sampler = {};
  std::vector<std::string> stops = {};  // texts that end the answer and are not part of it
  bool ignore_end_tokens = false;       // go on after the model's end tokens
};

enum class StopReason : std::uint8_t {
  end_token,    // the model ended its answer
  stop_text,    // one of GenerateOptions::stops appeared
  max_tokens,   // as many as were asked for
  context,      // the session is full
  interrupted,  // the caller's on_text said so
};
/// "end_token", "stop_text", ...
[[nodiscard]] const char* name(StopReason reason);

struct GenerateResult {
  std::string text;                  // the answer: bytes, without the stop text
  std::vector<std::int32_t> tokens;  // its tokens, without the end token
  StopReason reason = StopReason::max_tokens;
  /// The last of `tokens`, when it was never fed back to the model and is not in the cache. To go
  /// on with the conversation, append it first.
  std::optional<std::int32_t> pending;
  std::int64_t prompt_tokens = 0;  // appended by this call
  std::int64_t decode_steps = 0;   // passes of one token
  double prefill_seconds = 0;
  double decode_seconds = 0;

  /// 0 when nothing was done.
  [[nodiscard]] double prefill_tokens_per_second() const;
  [[nodiscard]] double decode_tokens_per_second() const;
};

struct GenerateCallbacks {
  /// Gets the answer's text as it becomes certain, in whole UTF-8 characters where it is UTF-8;
  /// false stops the generation. May be empty.
  std::function<bool(std::string_view text)> on_text;
  /// Tokens of the prompt read so far. May be empty.
  std::function<void(std::int64_t done, std::int64_t total)> on_prefill;
};

/// Appends `prompt` to the session and lets the model go on from there. An empty prompt is fine
/// when the session holds tokens already. Throws Error when there is nothing to go on from, or the
/// prompt does not fit the session's context.
GenerateResult generate(Session& session, std::span<const std::int32_t> prompt,
                        const GenerateOptions& options, const GenerateCallbacks& callbacks = {});

/// Finds stop texts in a text that comes in pieces, and holds back what may be the start of one.
class StopMatcher {
 public:
  /// Empty stops are ignored.
  explicit StopMatcher(std::vector<std::string> stops);
  /// What is certain to stand before any stop text. After a stop was found: nothing.
  [[nodiscard]] std::string push(std::string_view text);
  /// What was held back: nothing more comes.
  [[nodiscard]] std::string finish();
  [[nodiscard]] bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

/// The model's chat template. Throws Error when it has none, or one of an unknown family.
[[nodiscard]] ChatTemplate chat_template(const Tokenizer& tokenizer, const std::string& model);

}  // namespace sedpa
