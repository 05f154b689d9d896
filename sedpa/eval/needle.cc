#include "sedpa/eval/needle.h"

#include <algorithm>
#include <chrono>

#include "sedpa/core/fail.h"
#include "sedpa/engine/engine.h"
#include "sedpa/engine/generate.h"
#include "sedpa/engine/session_mark.h"

namespace sedpa {
namespace {

using Tokens = std::vector<std::int32_t>;

std::int64_t common_prefix(const Tokens& a, const Tokens& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// Reads prompt after prompt and keeps marks where later ones part from them.
class PrefixReader {
 public:
  /// `prompts` are read in this order; none is empty.
  PrefixReader(Session& session, const std::vector<Tokens>& prompts)
      : session_(session), prompts_(prompts) {
    session_.clear();
  }

  /// Takes the session back to what prompt `i` shares with those before and returns how many tokens
  /// that is.
  std::int64_t take_up(std::size_t i) {
    const std::int64_t shared = i > 0 ? whole_chunks(prompts_[i - 1], prompts_[i]) : 0;
    while (!marks_.empty() && marks_.back().length > shared) marks_.pop_back();
    if (marks_.empty()) {
      session_.clear();
    } else {
      marks_.back().state.go_back(session_);
    }
    return session_.length();
  }

  /// Then reads on up to the last place that a later prompt wants marked.
  template <class Progress>
  void read_marked(std::size_t i, Progress&& progress) {
    std::vector<std::int64_t> places;  // where later prompts part from this one
    for (std::size_t later = i + 1; later < prompts_.size(); ++later) {
      places.push_back(whole_chunks(prompts_[i], prompts_[later]));
      if (places.back() == 0) break;
    }
    std::sort(places.begin(), places.end());
    for (const std::int64_t place : places) {
      const std::int64_t at = session_.length();
      if (place <= at) continue;
      session_.feed(
          std::span(prompts_[i])
              .subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(place - at)),
          [&](std::int64_t done) { progress(at + done); });
      marks_.push_back({place, SessionMark(session_)});
    }
  }

 private:
  struct Mark {
    std::int64_t length;
    SessionMark state;
  };

  // Chunks begin at the same places whether a prompt is read from its start or from a mark. The
  // last token is always left to be read, for its logits.
  [[nodiscard]] std::int64_t whole_chunks(const Tokens& a, const Tokens& b) const {
    const std::int64_t chunk = session_.options().chunk;
    const std::int64_t longest = std::min(std::ssize(a), std::ssize(b)) - 1;
    return std::min(common_prefix(a, b), longest) / chunk * chunk;
  }

  Session& session_;
  const std::vector<Tokens>& prompts_;
  std::vector<Mark> marks_;  // ascending
};

// Cases that may share their beginnings: neighbours of one length and sample.
std::size_t group_end(std::span<const NeedleCase> cases, std::size_t begin) {
  std::size_t end = begin + 1;
  while (end < cases.size() && cases[end].length == cases[begin].length &&
         cases[end].sample == cases[begin].sample) {
    ++end;
  }
  return end;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::vector<NeedleCase> needle_cases(const std::vector<std::int64_t>& lengths, std::int64_t depths,
                                     std::int64_t samples) {
  if (lengths.empty() || depths < 1 || samples < 1) {
    fail("{} lengths, {} depths and {} samples, expected at least 1 of each", lengths.size(),
         depths, samples);
  }
  std::vector<NeedleCase> cases;
  for (const std::int64_t length : lengths) {
    for (std::int64_t sample = 0; sample < samples; ++sample) {
      for (std::int64_t d = 0; d < depths; ++d) {
        const double depth =
            depths == 1 ? 0.5 : static_cast<double>(d) / static_cast<double>(depths - 1);
        cases.push_back({.length = length, .depth = depth, .sample = sample});
      }
    }
  }
  return cases;
}

void run_needles(Session& session, const NeedleTask& task, std::span<const NeedleCase> cases,
                 const NeedleCallbacks& callbacks) {
  std::int64_t total = 0;
  for (const NeedleCase& test : cases) total += test.length;
  std::int64_t before = 0;  // tokens of the cases that are done
  for (std::size_t begin = 0; begin < cases.size();) {
    const std::size_t end = group_end(cases, begin);
    std::vector<NeedlePrompt> prompts;
    std::vector<Tokens> texts;  // a document and a question each
    for (std::size_t c = begin; c < end; ++c) {
      prompts.push_back(task.prompt(cases[c]));
      for (const NeedleQuestion& question : prompts.back().questions) {
        texts.push_back(prompts.back().document);
        texts.back().insert(texts.back().end(), question.tokens.begin(), question.tokens.end());
      }
    }
    PrefixReader reader(session, texts);
    std::size_t text = 0;
    for (std::size_t c = begin; c < end; ++c) {
      NeedleOutcome outcome{.test = cases[c], .answers = {}};
      for (const NeedleQuestion& question : prompts[c - begin].questions) {
        const auto on_tokens = [&](std::int64_t done) {
          if (callbacks.on_tokens) callbacks.on_tokens(before + done, total);
        };
        const auto start = std::chrono::steady_clock::now();
        outcome.read_tokens += std::ssize(texts[text]) - reader.take_up(text);
        reader.read_marked(text, on_tokens);
        outcome.prefill_seconds += seconds_since(start);
        const std::int64_t there = session.length();
        const GenerateResult result = generate(
            session, std::span(texts[text]).subspan(static_cast<std::size_t>(there)),
            {.max_tokens = task.answer_tokens(), .sampler = {.temperature = 0}, .stops = {"\n"}},
            {.on_text = {},
             .on_prefill = [&](std::int64_t done, std::int64_t) { on_tokens(there + done); }});
        const double score = task.score(question.expected, result.text);
        outcome.answers.push_back(
            {.expected = question.expected, .text = result.text, .score = score});
        outcome.score += score / static_cast<double>(prompts[c - begin].questions.size());
        outcome.prefill_seconds += result.prefill_seconds;
        outcome.decode_seconds += result.decode_seconds;
        ++text;
      }
      before += cases[c].length;
      if (callbacks.on_case) callbacks.on_case(outcome);
    }
    begin = end;
  }
}

}  // namespace sedpa
