// Bytes in, the same bytes out: text that is not UTF-8, streaming, words of any length.
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "sedpa/core/error.h"
#include "sedpa/format/gguf.h"
#include "sedpa/format/printable.h"
#include "sedpa/tokenizer/tokenizer.h"
#include "sedpa/tokenizer/utf8.h"

namespace sedpa {
namespace {

const std::string kFolder = SEDPA_SOURCE_DIR "/tests/data/tokenizer/";

Tokenizer from_gguf(const std::string& name) {
  return Tokenizer::from_gguf(GgufFile::open(kFolder + "ggml-vocab/ggml-vocab-" + name + ".gguf"));
}

std::vector<Tokenizer> tokenizers() {
  std::vector<Tokenizer> all = {from_gguf("gpt-2"), from_gguf("llama-spm")};
  for (const char* folder : {"smollm", "tekken", "falcon", "llama2"}) {
    all.push_back(Tokenizer::from_huggingface(kFolder + folder));
  }
  return all;
}

/// Bytes of every kind: whole characters, halves of them, bytes that never stand in UTF-8.
std::string random_bytes(std::mt19937& random, std::size_t count) {
  static const std::vector<std::string> kParts = {
      " ",    "a",        "bc",       "\n",   "1",    "é",    "中",           "😀",        "\xC3",
      "\xE4", "\xE4\xB8", "\xF0\x9F", "\x80", "\xFF", "\xC0", "\xED\xA0\x80", "\xF4\x90", "."};
  std::string text;
  while (text.size() < count) text += kParts[random() % kParts.size()];
  return text;
}

TEST(TokenizerBytes, AnyBytesComeBack) {
  std::mt19937 random(1);
  for (const Tokenizer& tokenizer : tokenizers()) {
    for (int i = 0; i < 300; ++i) {
      const std::string text = random_bytes(random, 1 + i % 40);
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, false, false)), text) << printable(text);
    }
    for (int byte = 0; byte < 256; ++byte) {
      const std::string text(1, static_cast<char>(byte));
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, false, false)), text) << byte;
    }
  }
}

TEST(TokenizerBytes, StreamingGivesWholeCharactersAndAllBytes) {
  std::mt19937 random(2);
  for (const Tokenizer& tokenizer : tokenizers()) {
    for (int i = 0; i < 200; ++i) {
      const std::string text = random_bytes(random, 1 + i % 60);
      const std::vector<std::int32_t> ids = tokenizer.encode(text, true, false);
      std::vector<bool> inside(text.size() + 1);  // places within a whole character
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = std::max<std::size_t>(utf8_character(text, at), 1);
        for (std::size_t k = 1; k < length; ++k) inside[at + k] = true;
        at += length;
      }
      StreamDecoder stream(tokenizer, /*at_start=*/true);
      std::string joined;
      for (const std::int32_t id : ids) {
        joined += stream.push(id);
        ASSERT_LE(joined.size(), text.size());
        EXPECT_FALSE(inside[joined.size()]) << printable(text);
      }
      EXPECT_EQ(joined + stream.finish(), text);
    }
  }
}

TEST(TokenizerBytes, StreamingHoldsBackHalfACharacter) {
  const Tokenizer gpt2 = from_gguf("gpt-2");
  const std::vector<std::int32_t> ids = gpt2.encode("😀!", false, false);
  ASSERT_GT(ids.size(), 2u);
  StreamDecoder stream(gpt2);
  EXPECT_EQ(stream.push(ids[0]), "");
  std::string rest;
  for (std::size_t i = 1; i < ids.size(); ++i) rest += stream.push(ids[i]);
  EXPECT_EQ(rest, "😀!");
  EXPECT_EQ(stream.push(ids[0]), "");
  EXPECT_NE(stream.finish(), "");  // what never became whole, as it is
  EXPECT_EQ(stream.finish(), "");
}

TEST(TokenizerBytes, IncompleteTails) {
  EXPECT_EQ(utf8_incomplete_tail("a"), 0u);
  EXPECT_EQ(utf8_incomplete_tail("a\xC3"), 1u);
  EXPECT_EQ(utf8_incomplete_tail("\xE4\xB8"), 2u);
  EXPECT_EQ(utf8_incomplete_tail("\xF0\x9F\x98"), 3u);
  EXPECT_EQ(utf8_incomplete_tail("\xE0\x80"), 0u);  // overlong: never a character
  EXPECT_EQ(utf8_incomplete_tail("\xED\xA0"), 0u);  // a surrogate
  EXPECT_EQ(utf8_incomplete_tail("\xFF"), 0u);
  EXPECT_EQ(utf8_incomplete_tail("\x80\x80\x80\x80"), 0u);
  EXPECT_EQ(utf8_incomplete_tail("é"), 0u);
}

TEST(TokenizerBytes, FirstSpaceOfSentencePiece) {
  const Tokenizer llama = from_gguf("llama-spm");
  const std::vector<std::int32_t> ids = llama.encode("Hello", true, false);
  EXPECT_EQ(llama.piece(ids[1]), " Hello");
  EXPECT_EQ(llama.decode(ids), "Hello");
  EXPECT_EQ(llama.decode(ids, true), "<s>Hello");
  EXPECT_EQ(llama.encode("<s>Hello</s> you", false, true).front(), 1);
  EXPECT_EQ(llama.decode(llama.encode("<s>Hello</s> you", false, true), true), "<s>Hello</s> you");
  // What a model appends to a prompt keeps its space.
  StreamDecoder stream(llama);
  EXPECT_EQ(stream.push(ids[1]), " Hello");
}

TEST(TokenizerBytes, IdsOutsideTheVocabularyAreRefused) {
  const Tokenizer gpt2 = from_gguf("gpt-2");
  const std::vector<std::int32_t> outside = {50257};
  EXPECT_THROW((void)gpt2.decode(outside), Error);
  EXPECT_THROW((void)gpt2.piece(-1), Error);
  EXPECT_THROW((void)StreamDecoder(gpt2).push(1 << 30), Error);
}

// Twenty times the text must not cost four hundred times the work.
TEST(TokenizerBytes, LongWordsCostLittleMoreThanTheirLength) {
  for (const Tokenizer& tokenizer : tokenizers()) {
    const auto cost = [&](std::size_t count) {
      std::string word;
      for (std::size_t i = 0; i < count; ++i) word += static_cast<char>('a' + i * i % 7);
      double best = 1e18;
      for (int i = 0; i < 3; ++i) {
        const std::clock_t begin = std::clock();  // this process's own time, not its neighbours'
        EXPECT_EQ(tokenizer.decode(tokenizer.encode(word, false, false)), word);
        best = std::min(best, static_cast<double>(std::clock() - begin));
      }
      return best;
    };
    EXPECT_LT(cost(400'000), 150 * cost(20'000));
  }
}

}  // namespace
}  // namespace sedpa
