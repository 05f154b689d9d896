#include "cli/prompt.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "cli/common.h"
#include "sedpa/core/fail.h"
#include "sedpa/engine/generate.h"
#include "sedpa/engine/prompt_tokens.h"

namespace sedpa::cli {
namespace {

// The template's text around one user's turn that begins with the document.
class Turn {
 public:
  Turn(const PromptOptions& options, const Engine& engine, std::string document)
      : options_(options),
        engine_(engine),
        template_(chat_template(engine.tokenizer(), engine.model_path())),
        document_(std::move(document)) {
    if (!document_.empty()) document_ += "\n\n";
  }

  [[nodiscard]] std::string render(const std::string& words) const {
    std::vector<ChatMessage> messages;
    if (options_.system) messages.push_back({"system", *options_.system});
    messages.push_back({"user", document_ + words});
    return render_chat(template_, messages, /*add_generation_prompt=*/true);
  }
  // What stands before the words, whatever they are; nothing without a document.
  [[nodiscard]] std::string head() const {
    if (document_.empty()) return {};
    const std::string a = render("a");
    const std::string b = render("b");
    const auto parts = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    return {a.begin(), parts.first};
  }
  [[nodiscard]] std::vector<std::int32_t> encode(const std::string& text) const {
    return engine_.tokenizer().encode(text, /*add_special=*/false, /*parse_special=*/true);
  }
  // What stands behind the head.
  [[nodiscard]] std::vector<std::int32_t> encode_tail(const std::string& words) const {
    const std::string all = render(words);
    const std::string before = head();
    if (before.empty()) return encode(all);
    if (!all.starts_with(before)) {
      fail("{}: the chat template does not keep the document apart from the question",
           engine_.model_path());
    }
    return encode_continuation(engine_.tokenizer(), std::string_view(all).substr(before.size()));
  }

 private:
  const PromptOptions& options_;
  const Engine& engine_;
  ChatTemplate template_;
  std::string document_;
};

std::string document(const PromptOptions& options) {
  return options.file.empty() ? std::string() : read_text(options.file);
}

}  // namespace

void add_prompt_options(CLI::App& command, PromptOptions& options) {
  command.add_option("-p,--prompt", options.text, "the prompt; with -f, what follows the file")
      ->type_name("TEXT");
  command.add_option("-f,--file", options.file, "a file with the prompt; -: standard input")
      ->type_name("FILE");
  command.add_flag("--chat", options.chat,
                   "hold a conversation: each line of standard input is a turn");
  command.add_flag("--instruct", options.instruct,
                   "put the prompt into a user's turn of the model's chat template");
  command
      .add_option("--system", options.system, "system message; the prompt is then a user's turn")
      ->type_name("TEXT");
}

void check_usage(const PromptOptions& options) {
  if (!options.text && options.file.empty() && !options.chat) {
    throw UsageError("generate needs a prompt: -p TEXT, -f FILE or --chat");
  }
  if (options.chat && options.file == "-") {
    throw UsageError("--chat reads standard input, which -f - would read too");
  }
}

Prompt make_prompt(const PromptOptions& options, const Engine& engine) {
  const bool question = options.text.has_value();
  const std::string text = document(options);
  if (options.uses_template()) {
    const Turn turn(options, engine, text);
    if (options.chat) return {.fixed = turn.encode(turn.head()), .rest = {}};
    if (text.empty() || !question) {
      return {
          .fixed = turn.encode(Turn(options, engine, "").render(question ? *options.text : text)),
          .rest = {}};
    }
    return {.fixed = turn.encode(turn.head()), .rest = turn.encode_tail(*options.text)};
  }
  const Tokenizer& tokenizer = engine.tokenizer();
  if (options.file.empty()) return {.fixed = encode_prompt(tokenizer, *options.text), .rest = {}};
  return {.fixed = encode_prompt(tokenizer, text),
          .rest = question ? encode_continuation(tokenizer, *options.text)
                           : std::vector<std::int32_t>()};
}

std::vector<std::int32_t> first_turn(const PromptOptions& options, const Engine& engine,
                                     const std::string& words) {
  return Turn(options, engine, document(options)).encode_tail(words);
}

}  // namespace sedpa::cli
