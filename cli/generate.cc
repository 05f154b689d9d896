#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/prompt.h"
#include "cli/validators.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/log.h"
#include "sedpa/core/memory.h"
#include "sedpa/engine/generate.h"
#include "sedpa/engine/prompt_tokens.h"
#include "sedpa/engine/session_file.h"

namespace sedpa::cli {
namespace {

using nlohmann::ordered_json;

constexpr std::int64_t kUsualTokens = 256;  // of an answer
constexpr std::int64_t kChatRoom = 4096;    // of a conversation, behind its beginning

struct GenerateCommand {
  ModelOptions model;
  HeadOptions heads;
  KvOptions kv;
  PromptOptions prompt;
  SamplerOptions sampler;
  std::optional<std::int64_t> context;
  std::int64_t chunk = 0;
  std::optional<std::int64_t> tokens;
  std::vector<std::string> stops;
  bool ignore_end_tokens = false;
  std::string session;
};

// What --context leaves open: room for the prompt and the answer, within what the model knows.
// Bounded heads take any length, also one that nobody knows yet (`prompt_tokens` empty).
std::int64_t choose_context(const GenerateCommand& command, const Engine& engine, bool bounded,
                            std::optional<std::int64_t> prompt_tokens) {
  const std::int64_t trained = engine.config().trained_context;
  const std::int64_t known = prompt_tokens.value_or(0);
  if (command.context) {
    if (known > *command.context) {
      fail("the prompt has {} tokens, but --context is {}: raise it or shorten the prompt", known,
           *command.context);
    }
    note_untrained(engine, *command.context);
    return *command.context;
  }
  if (bounded && (command.prompt.chat || !prompt_tokens)) return kMostContext;
  const std::int64_t room = command.prompt.chat ? kChatRoom : command.tokens.value_or(kUsualTokens);
  if (bounded) return std::clamp(known + room, std::int64_t{1}, kMostContext);
  if (known > trained) {
    fail(
        "the prompt has {} tokens, but the model was trained for {}: shorten it, stretch the "
        "model with an adapter or --rope-scaling, bound all heads with --retrieval-window, or run "
        "it as it is with --context {}",
        known, trained, known + command.tokens.value_or(kUsualTokens));
  }
  return std::clamp(known + room, std::int64_t{1}, std::max(trained, known));
}

void check_usage(const GenerateCommand& command) {
  check_usage(command.prompt);
  if (command.prompt.chat && !command.session.empty() && command.prompt.file.empty()) {
    throw UsageError("--session with --chat keeps a document: it needs -f FILE");
  }
  (void)head_request(command.heads);
}

// Found out before an hour of reading, not after it.
void check_can_write(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  const std::string where = folder.empty() ? "." : folder.string();
  std::error_code ignored;
  if (!std::filesystem::is_directory(where, ignored) || ::access(where.c_str(), W_OK) != 0) {
    fail("{}: a session cannot be saved there: {} is not a folder that can be written to", path,
         where);
  }
}

// One session from its opening to its last answer.
class Generation {
 public:
  explicit Generation(const GenerateCommand& command)
      : command_(command),
        engine_(open_engine(command.model)),
        heads_(plan_heads(command.heads, *engine_)),
        bounded_(heads_.plan.bounded()),
        streams_(bounded_ && !command.prompt.file.empty() && !command.prompt.uses_template() &&
                 command.session.empty()) {
    std::optional<std::int64_t> prompt_tokens;
    if (!streams_) {
      prompt_ = make_prompt(command.prompt, *engine_);
      prompt_tokens = prompt_.size();
      if (*prompt_tokens == 0 && !command.prompt.chat) {
        fail("the prompt is empty and {} has no begin token: there is nothing to go on from",
             engine_->model_path());
      }
    }
    options_ = {.context = choose_context(command, *engine_, bounded_, prompt_tokens),
                .heads = heads_.plan,
                .kv = command.kv.dtype(),
                .chunk = command.chunk};
    if (streams_) {
      options_.remembered = command.sampler.repeat_window;
      input_.emplace(command.prompt.file);
    }
    if (prompt_tokens && !command.prompt.chat) {
      note_beyond(*prompt_tokens + command.tokens.value_or(kUsualTokens));
    }
    open_saved();
    load(*engine_, options_);
    session_.emplace(*engine_, options_);
  }

  void run() {
    if (command_.prompt.chat) {
      chat();
    } else if (streams_) {
      stream();
    } else {
      read_fixed();
      answer(prompt_.rest);
    }
  }

 private:
  // A session file that exists is taken up and never changed; one that does not is made.
  void open_saved() {
    if (command_.session.empty()) return;
    std::error_code ignored;
    if (!std::filesystem::exists(command_.session, ignored)) {
      check_can_write(command_.session);
      return;
    }
    saved_ = SessionFile::open(command_.session);
    saved_->require_match(*engine_, options_);
    std::vector<std::int32_t> all = prompt_.fixed;
    all.insert(all.end(), prompt_.rest.begin(), prompt_.rest.end());
    saved_->require_prefix_of(all);
  }

  // Takes up the saved session, or reads and saves the part of the prompt that --session keeps.
  void read_fixed() {
    if (saved_) {
      saved_->restore(*session_);
      session_tokens_ = session_->length();
      // The saved text may end inside either part, or behind both.
      const auto in_fixed =
          std::min(session_tokens_, static_cast<std::int64_t>(prompt_.fixed.size()));
      prompt_.fixed.erase(prompt_.fixed.begin(), prompt_.fixed.begin() + in_fixed);
      prompt_.rest.erase(prompt_.rest.begin(), prompt_.rest.begin() + (session_tokens_ - in_fixed));
    }
    if (prompt_.fixed.empty()) return;
    const bool save = !command_.session.empty() && !saved_;
    if (!save && !command_.prompt.chat) {  // one piece reads faster than two
      prompt_.fixed.insert(prompt_.fixed.end(), prompt_.rest.begin(), prompt_.rest.end());
      prompt_.rest = std::exchange(prompt_.fixed, {});
      return;
    }
    const GenerateResult read = generate(*session_, prompt_.fixed, {.max_tokens = 0}, callbacks());
    clear_progress();
    fixed_tokens_ = read.prompt_tokens;
    fixed_seconds_ = read.prefill_seconds;
    if (save) save_session(command_.session, *session_);
  }

  // Past what the model was trained for, bounded heads promise memory and time, not sense.
  void note_beyond(std::int64_t tokens) {
    const std::int64_t trained = engine_->config().trained_context;
    if (!bounded_ || command_.context || tokens <= trained || noted_beyond_) return;
    noted_beyond_ = true;
    clear_progress();
    log(
        fmt::format("more than the {} tokens that the model was trained for: memory and time a "
                    "token stay the same, but what it writes may make no sense",
                    trained));
  }

  // Where every head is bounded, a file is read piece by piece as it comes, and not kept: its end
  // may be far, or nowhere.
  void stream() {
    const Tokenizer& tokenizer = engine_->tokenizer();
    StreamEncoder encoder(tokenizer);
    std::string text;
    for (bool more = true; more;) {
      text.clear();
      more = input_->read(text);
      const std::vector<std::int32_t> ids = more ? encoder.push(text) : encoder.finish();
      if (ids.empty()) continue;
      const GenerateResult read = generate(*session_, ids, {.max_tokens = 0}, callbacks());
      fixed_tokens_ += read.prompt_tokens;
      fixed_seconds_ += read.prefill_seconds;
      note_beyond(session_->length());
    }
    clear_progress();
    const auto& question = command_.prompt.text;
    answer(question ? encode_continuation(tokenizer, *question) : std::vector<std::int32_t>());
  }

  GenerateCallbacks callbacks() {
    return {.on_text =
                [this](std::string_view text) {
                  clear_progress();
                  if (!command_.model.json) print(std::string(text));
                  return !interrupted();
                },
            .on_prefill =
                [this](std::int64_t done, std::int64_t total) {
                  if (!progress_) progress_.emplace("reading");
                  if (streams_) {
                    progress_->update(0, 0, fmt::format("{} tokens", session_->length()));
                    return;
                  }
                  progress_->update(static_cast<std::uint64_t>(done),
                                    static_cast<std::uint64_t>(total));
                }};
  }
  void clear_progress() { progress_.reset(); }

  GenerateResult answer(const std::vector<std::int32_t>& prompt) {
    GenerateOptions options{.max_tokens = command_.tokens.value_or(
                                command_.prompt.chat ? options_.context : kUsualTokens),
                            .sampler = command_.sampler,
                            .stops = command_.stops,
                            .ignore_end_tokens = command_.ignore_end_tokens};
    options.sampler.seed += turns_++;
    GenerateResult result = generate(*session_, prompt, options, callbacks());
    clear_progress();
    report(result);
    if (result.reason == StopReason::interrupted) throw Interrupted();
    return result;
  }

  void report(const GenerateResult& result) {
    const std::int64_t read = result.prompt_tokens + fixed_tokens_;
    const double read_seconds = result.prefill_seconds + fixed_seconds_;
    const double read_rate = read_seconds > 0 ? static_cast<double>(read) / read_seconds : 0;
    if (command_.model.json) {
      ordered_json fields = run_fields(*engine_, heads_, options_, &*session_);
      fields["prompt_tokens"] = read + session_tokens_;
      fields["session_tokens"] = session_tokens_;
      fields["generated_tokens"] = result.tokens.size();
      fields["prefill_seconds"] = read_seconds;
      fields["prefill_tokens_per_second"] = measured(read_rate);
      fields["decode_seconds"] = result.decode_seconds;
      fields["decode_tokens_per_second"] = measured(result.decode_tokens_per_second());
      fields["decode_bytes_per_token"] = session_->decode_bytes();
      fields["peak_bytes"] = peak_resident_memory();
      fields["stop_reason"] = name(result.reason);
      fields["text"] = result.text;
      fields["token_ids"] = result.tokens;
      print_json(fields);
    } else {
      if (::isatty(STDOUT_FILENO) == 1 || command_.prompt.chat) print("\n");
      std::string taken_up;
      if (session_tokens_ > 0) taken_up = fmt::format("took up {} tokens, ", session_tokens_);
      fmt::print(stderr,
                 "[{}read {} tokens in {:.2f} s ({:.1f}/s), wrote {} in {:.2f} s ({:.1f}/s), KV "
                 "cache {}, peak memory {}]\n",
                 taken_up, read, read_seconds, read_rate, result.tokens.size(),
                 result.decode_seconds, result.decode_tokens_per_second(),
                 human_bytes(session_->kv_bytes()), human_bytes(peak_resident_memory()));
    }
    session_tokens_ = fixed_tokens_ = 0;
    fixed_seconds_ = 0;
  }

  // The next thing the user says; false at the end of the input.
  bool next_line(std::string& line) {
    const bool terminal = ::isatty(STDIN_FILENO) == 1;
    do {
      if (terminal) fmt::print(stderr, "> ");
      if (!std::getline(std::cin, line)) {
        if (interrupted()) throw Interrupted();
        if (terminal) fmt::print(stderr, "\n");
        return false;
      }
      if (!line.empty() && line.back() == '\r') line.pop_back();
    } while (line.find_first_not_of(" \t") == std::string::npos);
    return true;
  }

  // Every turn's tokens stay in the cache: only what is new is read.
  void chat() {
    const ChatTemplate markup = chat_template(engine_->tokenizer(), engine_->model_path());
    read_fixed();
    std::string line = command_.prompt.text.value_or("");
    if (line.empty() && !next_line(line)) return;
    std::vector<std::int32_t> tokens = first_turn(command_.prompt, *engine_, line);
    for (;;) {
      const GenerateResult result = answer(tokens);
      if (result.reason == StopReason::context) {
        fail("the conversation fills its context of {} tokens; use a larger --context",
             options_.context);
      }
      note_beyond(session_->length());
      if (!next_line(line)) return;
      tokens.clear();
      if (result.pending) tokens.push_back(*result.pending);
      const std::vector<std::int32_t> turn = encode_continuation(
          engine_->tokenizer(), render_next_turn(markup, line, /*ended=*/false));
      tokens.insert(tokens.end(), turn.begin(), turn.end());
    }
  }

  const GenerateCommand& command_;
  std::unique_ptr<Engine> engine_;
  PlannedHeads heads_;
  bool bounded_;
  bool streams_;
  Prompt prompt_;                   // of a stream: empty
  std::optional<TextInput> input_;  // of a stream
  SessionOptions options_;
  std::optional<SessionFile> saved_;
  std::optional<Session> session_;
  std::optional<ProgressBar> progress_;
  // Of the prompt's part that was read or taken up before the first answer.
  std::int64_t session_tokens_ = 0;
  std::int64_t fixed_tokens_ = 0;
  double fixed_seconds_ = 0;
  std::uint64_t turns_ = 0;
  bool noted_beyond_ = false;
};

void add_sampler_options(CLI::App& command, SamplerOptions& sampler) {
  const std::string group = "Choosing tokens";
  command.add_option("--temp", sampler.temperature, "temperature; 0: always the likeliest token")
      ->capture_default_str()
      ->check(at_least_zero())
      ->type_name("T")
      ->group(group);
  command.add_option("--top-k", sampler.top_k, "choose among the K likeliest; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 30))
      ->type_name("K")
      ->group(group);
  command.add_option("--top-p", sampler.top_p, "choose among the likeliest that make up P; 1: all")
      ->capture_default_str()
      ->check(share())
      ->type_name("P")
      ->group(group);
  command
      .add_option("--min-p", sampler.min_p,
                  "choose among those at least P times as likely as the likeliest; 0: all")
      ->capture_default_str()
      ->check(share())
      ->type_name("P")
      ->group(group);
  command
      .add_option("--repeat-penalty", sampler.repeat_penalty,
                  "makes the last 64 tokens less likely; 1: off")
      ->capture_default_str()
      ->check(positive_number())
      ->type_name("R")
      ->group(group);
  command.add_option("--seed", sampler.seed, "of the random numbers")
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<GenerateCommand>();
  CLI::App& command =
      *app.add_subcommand("generate", "go on from a prompt, or hold a conversation");
  add_prompt_options(command, options->prompt);
  command
      .add_option("-n,--tokens", options->tokens, "tokens at most; default: 256, chat: no limit")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30))
      ->type_name("N");
  command.add_option("--stop", options->stops, "a text that ends the answer; may be repeated")
      ->expected(1)
      ->take_all()
      ->type_name("TEXT");
  command.add_flag("--ignore-eos", options->ignore_end_tokens,
                   "go on behind the model's end tokens");
  command
      .add_option("--session", options->session,
                  "keep the cache in this file: of the document when -f and -p are given, else of "
                  "the whole prompt; taken up again when the prompt begins with the saved text")
      ->type_name("FILE");
  add_sampler_options(command, options->sampler);
  add_model_options(command, options->model);
  add_head_options(command, options->heads);
  add_kv_options(command, options->kv);
  add_context_option(command, options->context,
                     "tokens that the cache holds; default: what the prompt and answer need");
  add_chunk_option(command, options->chunk);
  add_examples(
      command,
      {"sedpa generate -m model.gguf -p 'The capital of France is' -n 16",
       "sedpa generate -m model.gguf -f book.txt --session book.session --instruct -p 'Who is he?'",
       "sedpa generate -m model.gguf --chat --system 'Be brief.' --temp 0.7"});
  command.callback([options] {
    check_usage(*options);
    Generation(*options).run();
  });
}

}  // namespace sedpa::cli
