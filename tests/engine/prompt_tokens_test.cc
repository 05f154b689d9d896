// A text that comes in pieces has the tokens that it has as a whole, for tokenizers of every kind.
#include "sedpa/engine/prompt_tokens.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "sedpa/format/gguf.h"
#include "tests/format/support.h"

namespace sedpa {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

const fs::path kSource = SEDPA_SOURCE_DIR;

std::vector<std::pair<std::string, Tokenizer>> tokenizers() {
  std::vector<std::pair<std::string, Tokenizer>> all;
  for (const auto& entry : fs::directory_iterator(kSource / "tests/data/tokenizer")) {
    if (fs::exists(entry.path() / "tokenizer.json") ||
        fs::exists(entry.path() / "tokenizer.model")) {
      all.emplace_back(entry.path().filename().string(),
                       Tokenizer::from_huggingface(entry.path().string()));
    }
  }
  for (const char* name : {"ggml-vocab-gpt-2.gguf", "ggml-vocab-llama-spm.gguf"}) {
    const fs::path path = kSource / "tests/data/tokenizer/ggml-vocab" / name;
    all.emplace_back(name, Tokenizer::from_gguf(GgufFile::open(path.string())));
  }
  return all;
}

std::string book(std::size_t bytes) {
  std::ifstream file(kSource / "data/war_and_peace.txt");
  std::string text(bytes, ' ');
  file.read(text.data(), static_cast<std::streamsize>(bytes));
  return text;
}

// Everything that could be cut wrongly, in any order: runs of white space, digits, one letter,
// special tokens with white space around them, scripts without spaces, bytes that are no UTF-8.
std::string jumble(std::mt19937_64& random, std::size_t parts) {
  static const std::string kParts[] = {" the",
                                       "\n\n",
                                       "   ",
                                       "\t",
                                       "12345678901",
                                       "aaaaaaaaaaaaaaa",
                                       "<|endoftext|>",
                                       " <s> ",
                                       "</s>",
                                       "<|im_start|>",
                                       "don't",
                                       " a b c d",
                                       "中文字符没有空格",
                                       " Ünï",
                                       "\xff\xfe",
                                       "▁",
                                       " x\n",
                                       "\r\n",
                                       ".",
                                       "!!! ",
                                       " 3.14",
                                       "\u00e9",
                                       "e\u0301",
                                       " word, another",
                                       "<0x0A>",
                                       "हिन्दी",
                                       " "};
  std::string text;
  for (std::size_t i = 0; i < parts; ++i) text += kParts[random() % std::size(kParts)];
  return text;
}

// `longest`: bytes of one push.
Ids in_pieces(const Tokenizer& tokenizer, const std::string& text, std::size_t piece,
              std::size_t longest, std::mt19937_64& random, int* cuts = nullptr) {
  StreamEncoder encoder(tokenizer, piece);
  Ids ids;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = std::min<std::size_t>(1 + random() % longest, text.size() - at);
    const Ids more = encoder.push(std::string_view(text).substr(at, size));
    if (cuts != nullptr && !more.empty()) ++*cuts;
    ids.insert(ids.end(), more.begin(), more.end());
    at += size;
  }
  const Ids rest = encoder.finish();
  ids.insert(ids.end(), rest.begin(), rest.end());
  return ids;
}

TEST(StreamEncoder, GivesTheTokensOfTheWholeBook) {
  std::mt19937_64 random(3);
  const std::string text = book(60000);
  for (const auto& [name, tokenizer] : tokenizers()) {
    int cuts = 0;
    EXPECT_EQ(in_pieces(tokenizer, text, 4096, 3000, random, &cuts), encode_prompt(tokenizer, text))
        << name;
    EXPECT_GT(cuts, name == "behaviors" ? -1 : 8) << name << ": held back what was certain";
  }
}

TEST(StreamEncoder, GivesTheTokensOfWhatIsHardToCut) {
  std::mt19937_64 random(4);
  for (const auto& [name, tokenizer] : tokenizers()) {
    for (int round = 0; round < 6; ++round) {
      const std::string text = jumble(random, 2000);
      EXPECT_EQ(in_pieces(tokenizer, text, 2048, 700, random), encode_prompt(tokenizer, text))
          << name;
    }
  }
}

TEST(StreamEncoder, TakesShortTextsAndTextsWithoutAPlaceToCut) {
  std::mt19937_64 random(5);
  for (const auto& [name, tokenizer] : tokenizers()) {
    for (const std::string& text : {std::string(), std::string("a"), std::string(" two words"),
                                    std::string(9000, ' '), std::string(9000, '7')}) {
      EXPECT_EQ(in_pieces(tokenizer, text, 1024, 500, random), encode_prompt(tokenizer, text))
          << name << ", " << text.size() << " bytes";
    }
  }
}

TEST(StreamEncoder, SaysWhenATextCannotBeCut) {
  const Tokenizer tokenizer = tokenizers().front().second;
  StreamEncoder encoder(tokenizer);
  const std::string text(StreamEncoder::kMostHeld / 2, '\xff');
  EXPECT_TRUE(encoder.push(text).empty());
  test::expect_error([&] { (void)encoder.push(text); }, {"cut", "space"});
}

}  // namespace
}  // namespace sedpa
