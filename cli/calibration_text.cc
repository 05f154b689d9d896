#include "cli/calibration_text.h"

#include <algorithm>
#include <span>
#include <utility>

#include "sedpa/core/hash.h"
#include "sedpa/format/text_files.h"
#include "sedpa/identify/passkey_data.h"

namespace sedpa::cli {
namespace {

/// Tokens of a sequence, where nobody says otherwise.
constexpr std::int64_t kSequenceTokens = 1024;
/// The same where heads become thin: which planes of RoPE matter shows only far away.
constexpr std::int64_t kThinSequenceTokens = 4096;
/// The last share of the text is for probes: a tenth, of a short text so many bytes or half of it.
constexpr double kProbeShare = 0.1;
constexpr std::size_t kLeastProbeBytes = std::size_t{32} << 10;
/// Each projection of a model asks for a run over the probes, so they are short.
constexpr std::int64_t kProbeTokens = 512;
/// The probe that asks for what is hidden, where heads become thin: long, for what a model finds
/// near and with ease it finds with thin heads, too.
constexpr std::int64_t kThinProbeTokens = 4096;
/// Rows of a probe of running text that are compared: its last ones.
constexpr std::int64_t kProbeRows = 256;
/// Where heads become thin there are several, and longer ones: widths that are best for a few
/// hundred tokens are not for others.
constexpr int kThinRunningProbes = 2;
constexpr std::int64_t kThinRunningTokens = 1536;
constexpr std::int64_t kThinRunningRows = 512;
/// Of calibration sequences, one in so many asks for what it hides.
constexpr std::int64_t kRetrievalEvery = 4;
/// Keys and facts: heads that find one kind need not be those that find the other.
constexpr HiddenKind kHiddenKind = HiddenKind::both;
constexpr int kHidden = 4;
/// In longer texts: what is fitted to few answers does not find others.
constexpr int kThinHidden = 16;
constexpr int kWords = 8;  // of each

class TextMaker {
 public:
  TextMaker(const Engine& engine, const CalibrationTextOptions& options)
      : options_(options),
        tokenizer_(engine.tokenizer()),
        least_prompt_(least_prompt_tokens(tokenizer_, kHiddenKind)),
        most_(std::min<std::int64_t>(options.thin_heads ? kThinSequenceTokens : kSequenceTokens,
                                     engine.config().trained_context)),
        random_(mix_seed({options.seed})) {}

  CalibrationText make() {
    const std::string all = read_text_files(options_.path, FillerText::kMaxBytes);
    const std::size_t kept_bytes =
        std::max(static_cast<std::size_t>(static_cast<double>(all.size()) * kProbeShare),
                 std::min(all.size() / 2, kLeastProbeBytes));
    const std::size_t cut = all.size() - kept_bytes;
    const FillerText shown(tokenizer_, std::string_view(all).substr(0, cut), options_.path);
    const FillerText kept(tokenizer_, std::string_view(all).substr(cut), options_.path);
    const std::int64_t context =
        options_.context.value_or(std::clamp<std::int64_t>(shown.size(), 1, most_));
    CalibrationText text;
    text.name = options_.path.substr(options_.path.rfind('/') + 1);
    if (!options_.probes_only) text.sequences = sequences(shown, context);
    for (int i = 0; i < (options_.thin_heads ? kThinRunningProbes : 1); ++i) {
      text.running.push_back(running(kept, context));
    }
    text.retrieving.push_back(retrieving(kept, context));
    text.fingerprint = fingerprint(text);
    return text;
  }

 private:
  std::vector<std::vector<std::int32_t>> sequences(const FillerText& shown, std::int64_t context) {
    const std::int64_t tokens = std::min(options_.tokens, shown.size());
    const std::int64_t count = std::max<std::int64_t>(1, tokens / context);
    const int hidden = hidden_in(context);
    std::vector<std::vector<std::int32_t>> all;
    for (std::int64_t i = 0; i < count; ++i) {
      const bool asks = i % kRetrievalEvery + 1 == kRetrievalEvery && context >= least_prompt_;
      all.push_back(asks ? prompt(shown, context, hidden).tokens : passage(shown, context));
    }
    return all;
  }

  /// Tokens of a prompt that hides so many things among ordinary text. Where a token is little more
  /// than a byte, keys and questions need more room.
  [[nodiscard]] std::int64_t room_for(int hidden) const {
    return 3 * most_answer_tokens(tokenizer_, kHiddenKind, hidden, kWords);
  }
  [[nodiscard]] int hidden_in(std::int64_t tokens) const {
    return options_.thin_heads && room_for(kThinHidden) <= tokens ? kThinHidden : kHidden;
  }

  Probe running(const FillerText& kept, std::int64_t context) {
    const bool thin = options_.thin_heads;
    const std::int64_t length =
        std::min({thin ? kThinRunningTokens : kProbeTokens, context, kept.size()});
    const std::int64_t rows = std::min(thin ? kThinRunningRows : kProbeRows, length);
    return {.tokens = passage(kept, length), .rows = {{length - rows, rows}}};
  }

  Probe retrieving(const FillerText& kept, std::int64_t context) {
    const int hidden = hidden_in(context);
    const std::int64_t usual = options_.thin_heads ? kThinProbeTokens : kProbeTokens;
    const std::int64_t length = std::min({context, std::max(usual, room_for(hidden)), kept.size()});
    const PasskeyPrompt asked = prompt(kept, std::max(length, least_prompt_), hidden);
    Probe probe{.tokens = asked.tokens, .rows = {}};
    // What gives an answer's tokens are the rows before them.
    for (const HiddenKey& key : asked.keys) probe.rows.push_back({key.answer - 1, key.count});
    return probe;
  }

  std::vector<std::int32_t> passage(const FillerText& filler, std::int64_t count) {
    const auto tokens = filler.tokens(filler.random_start(count, random_), count);
    return {tokens.begin(), tokens.end()};
  }
  PasskeyPrompt prompt(const FillerText& filler, std::int64_t tokens, int hidden) {
    return make_passkey_prompt(
        tokenizer_, filler,
        {.tokens = tokens, .keys = hidden, .words = kWords, .hidden = kHiddenKind}, random_);
  }

  static std::string fingerprint(const CalibrationText& text) {
    Hash hash;
    const auto add = [&](const std::vector<std::int32_t>& tokens) {
      hash.add(std::as_bytes(std::span(tokens)));
    };
    for (const auto& sequence : text.sequences) add(sequence);
    for (const Probe& probe : text.running) add(probe.tokens);
    for (const Probe& probe : text.retrieving) add(probe.tokens);
    return hash.digits();
  }

  const CalibrationTextOptions& options_;
  const Tokenizer& tokenizer_;
  std::int64_t least_prompt_;
  std::int64_t most_;  // tokens of a sequence, where nobody says how many
  Random random_;
};

}  // namespace

CalibrationText make_calibration_text(const Engine& engine, const CalibrationTextOptions& options) {
  return TextMaker(engine, options).make();
}

}  // namespace sedpa::cli
