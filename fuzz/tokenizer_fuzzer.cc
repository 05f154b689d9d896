// Tokenizer files: the first byte says which, the rest is the file (for a Hugging Face directory:
// tokenizer.json, a zero byte, tokenizer_config.json, a zero byte, the text). What is accepted
// encodes any bytes and decodes what it encoded, streaming or not, to the same text.
#include "sedpa/tokenizer/tokenizer.h"

#include <algorithm>
#include <string>
#include <vector>

#include "fuzz/fuzzing.h"
#include "sedpa/format/gguf.h"
#include "sedpa/tokenizer/chat_template.h"

namespace {

using namespace sedpa;

void use(const Tokenizer& tokenizer, std::string_view text) {
  text = text.substr(0, 4096);
  for (const bool special : {false, true}) {
    const std::vector<std::int32_t> ids = tokenizer.encode(text, special, special);
    StreamDecoder stream(tokenizer, true, true);
    std::string joined;
    for (const std::int32_t id : ids) {
      fuzz::require(id >= 0 && id < tokenizer.vocab_size());
      joined += stream.push(id);
    }
    fuzz::require(joined + stream.finish() == tokenizer.decode(ids, true));
  }
  fuzz::require(tokenizer.bos() < tokenizer.vocab_size() && tokenizer.eos() >= -1);
  for (const std::int32_t id : tokenizer.end_tokens()) fuzz::require(!tokenizer.piece(id).empty());
}

std::string_view take(std::string_view& rest) {
  const std::size_t end = std::min(rest.find('\0'), rest.size());
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return part;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string_view rest = fuzz::as_text(data + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      fuzz::parse("fuzz", [&] {
        use(Tokenizer::from_gguf(GgufFile::parse(fuzz::as_bytes(data + 1, size - 1), "fuzz")),
            rest);
      });
      break;
    case 1:
      fuzz::parse("fuzz", [&] {
        Tokenizer::HuggingfaceFiles files;
        files.tokenizer_json = take(rest);
        files.tokenizer_config_json = take(rest);
        use(Tokenizer::from_memory(files, "fuzz/"), rest);
      });
      break;
    case 2:
      fuzz::parse("fuzz", [&] {
        Tokenizer::HuggingfaceFiles files;
        files.tokenizer_model = rest;
        use(Tokenizer::from_memory(files, "fuzz/"), rest);
      });
      break;
    default:
      fuzz::parse("chat", [&] {
        const ChatTemplate chat = recognise_chat_template(std::string(rest), "<s>", "</s>");
        const std::vector<ChatMessage> messages = {{"user", std::string(rest)}};
        fuzz::require(!render_chat(chat, messages, true).empty());
        fuzz::require(!render_next_turn(chat, "a", false).empty());
      });
  }
  return 0;
}
