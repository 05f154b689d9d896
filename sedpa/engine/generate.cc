#include "sedpa/engine/generate.h"

#include <algorithm>
#include <chrono>

#include "sedpa/core/fail.h"
#include "sedpa/engine/engine.h"

namespace sedpa {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double rate(std::int64_t count, double seconds) {
  return count > 0 && seconds > 0 ? static_cast<double>(count) / seconds : 0.0;
}

// The text side of an answer: tokens in, certain text out.
class Answer {
 public:
  Answer(const Tokenizer& tokenizer, const std::vector<std::string>& stops,
         const std::function<bool(std::string_view)>& on_text)
      : decoder_(tokenizer), matcher_(stops), on_text_(on_text) {}

  void push(std::int32_t token) { emit(matcher_.push(decoder_.push(token))); }
  void finish() {
    emit(matcher_.push(decoder_.finish()));
    emit(matcher_.finish());
  }
  [[nodiscard]] bool stopped() const { return matcher_.stopped(); }
  [[nodiscard]] bool interrupted() const { return interrupted_; }
  [[nodiscard]] std::string take() { return std::move(text_); }

 private:
  void emit(const std::string& text) {
    if (text.empty() || interrupted_) return;
    text_ += text;
    if (on_text_ && !on_text_(text)) interrupted_ = true;
  }

  StreamDecoder decoder_;
  StopMatcher matcher_;
  const std::function<bool(std::string_view)>& on_text_;
  std::string text_;
  bool interrupted_ = false;
};

// Plain greedy choice needs no logits on the host.
std::int32_t next_token(const Session& session, Sampler& sampler) {
  const SamplerOptions& options = sampler.options();
  if (options.temperature == 0 && options.repeat_penalty == 1) {
    const std::int32_t token = session.likeliest();
    if (token >= 0) return token;
  }
  return sampler.sample(session.logits(), session.tokens());
}

}  // namespace

const char* name(StopReason reason) {
  switch (reason) {
    case StopReason::end_token:
      return "end_token";
    case StopReason::stop_text:
      return "stop_text";
    case StopReason::max_tokens:
      return "max_tokens";
    case StopReason::context:
      return "context";
    case StopReason::interrupted:
      return "interrupted";
  }
  return "unknown";
}

double GenerateResult::prefill_tokens_per_second() const {
  return rate(prompt_tokens, prefill_seconds);
}

double GenerateResult::decode_tokens_per_second() const {
  return rate(decode_steps, decode_seconds);
}

GenerateResult generate(Session& session, std::span<const std::int32_t> prompt,
                        const GenerateOptions& options, const GenerateCallbacks& callbacks) {
  Sampler sampler(options.sampler);
  const Tokenizer& tokenizer = session.engine().tokenizer();
  GenerateResult result;
  if (!prompt.empty()) {
    const Clock::time_point start = Clock::now();
    const auto total = static_cast<std::int64_t>(prompt.size());
    session.feed(prompt, [&](std::int64_t done) {
      if (callbacks.on_prefill) callbacks.on_prefill(done, total);
    });
    result.prompt_tokens = total;
    result.prefill_seconds = seconds_since(start);
  }
  if (!session.has_logits()) fail("there is no prompt: no tokens to go on from");

  Answer answer(tokenizer, options.stops, callbacks.on_text);
  const Clock::time_point start = Clock::now();
  while (static_cast<std::int64_t>(result.tokens.size()) < options.max_tokens) {
    if (result.pending) {
      if (session.length() == session.options().context) {
        result.reason = StopReason::context;
        break;
      }
      session.feed(std::span(&*result.pending, 1));
      result.pending.reset();
      ++result.decode_steps;
    }
    const std::int32_t token = next_token(session, sampler);
    if (tokenizer.is_end(token) && !options.ignore_end_tokens) {
      result.reason = StopReason::end_token;
      break;
    }
    result.tokens.push_back(token);
    result.pending = token;
    answer.push(token);
    if (answer.stopped() || answer.interrupted()) break;
  }
  result.decode_seconds = seconds_since(start);
  answer.finish();
  if (answer.stopped()) result.reason = StopReason::stop_text;
  if (answer.interrupted()) result.reason = StopReason::interrupted;
  result.text = answer.take();
  return result;
}

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopMatcher::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  // The stop that is whole first counts, however the text is cut into pieces.
  std::size_t first = std::string::npos;
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t found = held_.find(stop);
    if (found == std::string::npos) continue;
    const std::size_t found_end = found + stop.size();
    if (found_end < end || (found_end == end && found < first)) {
      first = found;
      end = found_end;
    }
  }
  if (first != std::string::npos) {
    stopped_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  // The longest tail that is the start of a stop text waits for what follows.
  std::size_t wait = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t length = std::min(stop.size() - 1, held_.size()); length > wait; --length) {
      if (held_.ends_with(std::string_view(stop).substr(0, length))) wait = length;
    }
  }
  std::string certain = held_.substr(0, held_.size() - wait);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopMatcher::finish() { return stopped_ ? std::string() : std::exchange(held_, {}); }

ChatTemplate chat_template(const Tokenizer& tokenizer, const std::string& model) {
  if (tokenizer.chat_template().empty()) {
    fail("{}: the model has no chat template; give it a plain prompt instead", model);
  }
  const auto text = [&](std::int32_t id) { return id < 0 ? std::string() : tokenizer.piece(id); };
  try {
    return recognise_chat_template(tokenizer.chat_template(), text(tokenizer.bos()),
                                   text(tokenizer.eos()));
  } catch (const Error& error) {
    fail("{}: {}", model, error.what());
  }
}

}  // namespace sedpa
