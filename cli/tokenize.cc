#include <CLI/CLI.hpp>
#include <charconv>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.h"
#include "cli/common.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/gguf.h"
#include "sedpa/format/printable.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa::cli {
namespace {

struct TokenizeOptions {
  std::string model;
  std::optional<std::string> text;
  std::string file;
  bool decode = false;
  bool no_add_special = false;
  bool no_parse_special = false;
  bool json = false;
};

// Only the vocabulary is read: the rest of the file need not be a model that we know.
Tokenizer open_tokenizer(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return Tokenizer::from_huggingface(path);
  return Tokenizer::from_gguf(GgufFile::open(path));
}

// "1,2,3": commas, spaces and line ends separate.
std::vector<std::int32_t> parse_ids(std::string_view text) {
  constexpr std::string_view kSeparators = ", \t\r\n[]";
  std::vector<std::int32_t> ids;
  for (std::size_t at = text.find_first_not_of(kSeparators); at != std::string_view::npos;
       at = text.find_first_not_of(kSeparators, at)) {
    const std::size_t end = std::min(text.find_first_of(kSeparators, at), text.size());
    const std::string_view word = text.substr(at, end - at);
    std::int32_t id = 0;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || stop != word.data() + word.size()) {
      fail("{} is not a token id, expected numbers with commas between", printable(word));
    }
    ids.push_back(id);
    at = end;
  }
  return ids;
}

void run(const TokenizeOptions& options) {
  if (options.text.has_value() == !options.file.empty()) {
    throw UsageError("tokenize takes either -p TEXT or -f FILE");
  }
  const Tokenizer tokenizer = open_tokenizer(options.model);
  const std::string text = options.text ? *options.text : read_text(options.file);
  show_notes();
  std::vector<std::int32_t> ids;
  std::string decoded;
  if (options.decode) {
    ids = parse_ids(text);
    decoded = tokenizer.decode(ids, /*render_special=*/true);
  } else {
    ids = tokenizer.encode(text, !options.no_add_special, !options.no_parse_special);
  }
  if (options.json) {
    nlohmann::ordered_json report = {{"model", options.model}, {"token_ids", ids}};
    report["text"] = options.decode ? decoded : text;
    print_json(report);
  } else if (options.decode) {
    print(decoded);
  } else {
    print(fmt::format("{}\n", fmt::join(ids, ",")));
  }
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App& command = *app.add_subcommand("tokenize", "turn text into token ids, or back");
  command.add_option("-m,--model", options->model, "a GGUF file, or a Hugging Face directory")
      ->required()
      ->type_name("MODEL");
  command.add_option("-p,--prompt", options->text, "the text, or the ids")->type_name("TEXT");
  command.add_option("-f,--file", options->file, "a file with it; -: standard input")
      ->type_name("FILE");
  command.add_flag("--decode", options->decode, "the input is ids, comma separated: give the text");
  command.add_flag("--no-add-special", options->no_add_special,
                   "do not put in the model's begin and end tokens");
  command.add_flag("--no-parse-special", options->no_parse_special,
                   "take control tokens in the text as plain text");
  command.add_flag("--json", options->json, "one JSON object on stdout");
  add_examples(command, {"sedpa tokenize -m model.gguf -p 'Hello world'",
                         "sedpa tokenize -m model.gguf -p 28120,905 --decode"});
  command.callback([options] { run(*options); });
}

}  // namespace sedpa::cli
