// Reads a text once and answers questions about it from half the KV cache:
//   ask MODEL.gguf ADAPTER.gguf PATTERN_FOLDER TEXT_FILE QUESTION...
#include <sedpa/core/error.h>
#include <sedpa/engine/engine.h>
#include <sedpa/engine/generate.h>
#include <sedpa/engine/plan_heads.h>
#include <sedpa/engine/prompt_tokens.h>
#include <sedpa/engine/session_mark.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

int main(int argc, char** argv) try {
  if (argc < 6) {
    std::cerr << "usage: ask MODEL.gguf ADAPTER.gguf PATTERN_FOLDER TEXT_FILE QUESTION...\n";
    return 2;
  }
  std::ifstream file(argv[4]);
  const std::string text(std::istreambuf_iterator<char>(file), {});

  sedpa::Engine engine({.model = argv[1], .adapters = {{.path = argv[2]}}});
  const auto heads = sedpa::plan_heads(engine, {.pattern = argv[3], .sparsity = 0.5});
  const auto document = engine.tokenizer().encode(text, true, false);
  const auto context = static_cast<std::int64_t>(document.size()) + 256;
  const sedpa::SessionOptions options{.context = context, .heads = heads.plan};
  engine.check_memory(options);
  engine.load();

  sedpa::Session session(engine, options);
  session.append(document);
  const sedpa::SessionMark document_end(session);
  for (int i = 5; i < argc; ++i) {
    std::cout << argv[i];
    const auto question =
        sedpa::encode_continuation(engine.tokenizer(), "\n\n" + std::string(argv[i]));
    sedpa::generate(
        session, question, {.max_tokens = 32, .stops = {"\n"}},
        {.on_text = [](std::string_view piece) { return bool(std::cout << piece << std::flush); }});
    std::cout << '\n';
    document_end.go_back(session);
  }
} catch (const sedpa::Error& error) {
  std::cerr << "ask: " << error.what() << '\n';
  return 1;
}
