// Ids against llama.cpp's published vectors: what Hugging Face's tokenizers gave for its texts.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "sedpa/format/gguf.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> texts_of(const std::string& input) {
  static const std::string kBetween = "\n__ggml_vocab_test__\n";
  std::vector<std::string> texts;
  for (std::size_t begin = 0; begin < input.size();) {
    const std::size_t end = std::min(input.find(kBetween, begin), input.size());
    texts.push_back(input.substr(begin, end - begin));
    begin = end + kBetween.size();
  }
  return texts;
}

/// Every text of one vocabulary: its ids, and back to the same bytes.
void check_vocabulary(const fs::path& path) {
  SCOPED_TRACE(path.string());
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile::open(path.string()));
  const std::vector<std::string> texts = texts_of(read(path.string() + ".inp"));
  std::istringstream expected(read(path.string() + ".out"));
  ASSERT_GE(texts.size(), 40u);
  for (const std::string& text : texts) {
    std::string line;
    ASSERT_TRUE(std::getline(expected, line));
    std::istringstream numbers(line);
    const std::vector<std::int32_t> ids{std::istream_iterator<std::int32_t>(numbers), {}};
    const std::vector<std::int32_t> found = tokenizer.encode(text, false, false);
    EXPECT_EQ(found, ids) << '"' << text << '"';
    EXPECT_EQ(tokenizer.decode(found), text);
  }
}

const fs::path kVectors = fs::path(SEDPA_SOURCE_DIR) / "tests/data/tokenizer/ggml-vocab";

TEST(TokenizerVectors, Gpt2) { check_vocabulary(kVectors / "ggml-vocab-gpt-2.gguf"); }

TEST(TokenizerVectors, LlamaSentencePiece) {
  check_vocabulary(kVectors / "ggml-vocab-llama-spm.gguf");
}

TEST(TokenizerVectors, AllOfLlamaCpp) {
  const char* folder = std::getenv("SEDPA_VOCABULARIES");
  if (folder == nullptr) {
    GTEST_SKIP() << "SEDPA_VOCABULARIES does not name llama.cpp's folder models/";
  }
  int checked = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".gguf") || name.find("bert") != std::string::npos) continue;
    if (!fs::exists(entry.path().string() + ".inp")) continue;
    check_vocabulary(entry.path());
    ++checked;
  }
  EXPECT_GE(checked, 10);
}

TEST(TokenizerVectors, BeginAndEndTokens) {
  const auto open = [](const char* name) {
    return Tokenizer::from_gguf(GgufFile::open((kVectors / name).string()));
  };
  const Tokenizer llama = open("ggml-vocab-llama-spm.gguf");
  EXPECT_EQ(llama.bos(), 1);
  EXPECT_EQ(llama.eos(), 2);
  EXPECT_TRUE(llama.add_bos());
  EXPECT_FALSE(llama.add_eos());
  EXPECT_EQ(llama.end_tokens(), std::vector<std::int32_t>{2});
  EXPECT_EQ(llama.vocab_size(), 32000);
  EXPECT_EQ(llama.encode("", true, false), std::vector<std::int32_t>{1});
  EXPECT_EQ(llama.piece(13), "\n");  // <0x0A>
  EXPECT_EQ(llama.piece(15043), " Hello");

  const Tokenizer gpt2 = open("ggml-vocab-gpt-2.gguf");
  EXPECT_EQ(gpt2.eos(), 50256);
  EXPECT_TRUE(gpt2.is_end(50256));
  EXPECT_EQ(gpt2.encode("<|endoftext|>", false, true), std::vector<std::int32_t>{50256});
  EXPECT_GT(gpt2.encode("<|endoftext|>", false, false).size(), 1u);
  EXPECT_NE(llama.fingerprint(), gpt2.fingerprint());
}

}  // namespace
}  // namespace sedpa
