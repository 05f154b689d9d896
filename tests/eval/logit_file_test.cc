// llama.cpp's format is checked against a file written down here byte by byte, after its
// description in tools/perplexity/README.md and what that tool writes; hostile ones after it.
#include "sedpa/eval/logit_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "sedpa/core/error.h"
#include "tests/support/temp_dir.h"

namespace sedpa {
namespace {

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

LogitFile parse(const std::string& bytes, std::string_view json = {}) {
  const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
  return LogitFile::parse(MappedFile::from_bytes({data, data + bytes.size()}, "made up"), json);
}

// Context 4, so one row of each chunk (row 2); vocabulary 3, padded to 4 codes behind the 2 floats.
std::string small_file() {
  std::string bytes = "_logits_";
  put(bytes, std::uint32_t{4});
  put(bytes, std::int32_t{3});
  put(bytes, std::int32_t{2});
  for (const std::int32_t token : {0, 1, 2, 0, 2, 2, 1, 1}) put(bytes, token);
  // Chunk 0: the whole range of 16 is used, so code 0 is "this or less".
  put(bytes, 16.0f / 65535);
  put(bytes, -16.5f);
  for (const std::uint16_t code : {65535, 0, 32768, 0}) put(bytes, code);
  // Chunk 1: a narrow range, where code 0 is a value.
  put(bytes, 2.0f / 65535);
  put(bytes, -2.5f);
  for (const std::uint16_t code : {0, 65535, 0, 0}) put(bytes, code);
  return bytes;
}

TEST(LogitFile, ReadsLlamaCppsFormat) {
  const LogitFile file = parse(small_file());
  EXPECT_EQ(file.context(), 4);
  EXPECT_EQ(file.chunks(), 2);
  EXPECT_EQ(file.vocab_size(), 3);
  EXPECT_EQ(file.first_row(), 2);
  EXPECT_EQ(file.rows(), 1);
  EXPECT_EQ(file.tokens(), (std::vector<std::int32_t>{0, 1, 2, 0, 2, 2, 1, 1}));
  std::vector<float> row(3);
  file.read(0, 2, row.data());
  EXPECT_FLOAT_EQ(row[0], -0.5f);
  EXPECT_TRUE(std::isinf(row[1]));
  EXPECT_NEAR(row[2], -8.5f, 2e-4);
  file.read(1, 2, row.data());
  EXPECT_FLOAT_EQ(row[0], -2.5f);
  EXPECT_FLOAT_EQ(row[1], -0.5f);
  EXPECT_FLOAT_EQ(row[2], -2.5f);
  EXPECT_THROW(file.read(0, 3, row.data()), Error);
  EXPECT_THROW(file.read(2, 2, row.data()), Error);
}

TEST(LogitFile, RefusesFilesThatLie) {
  const std::string good = small_file();
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_THROW(parse(good.substr(0, size)), Error) << size;
  }
  EXPECT_THROW(parse(good + '\0'), Error);
  const auto with = [&](std::size_t at, std::int32_t value) {
    std::string bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    return bytes;
  };
  for (const std::int32_t value : {0, 1, -1, 3, 0x7fffffff, -0x7fffffff}) {
    EXPECT_THROW(parse(with(8, value)), Error) << "context " << value;
    EXPECT_THROW(parse(with(16, value)), Error) << "chunks " << value;
  }
  for (const std::int32_t value : {0, 1, 2, -1, 0x7fffffff, -0x7fffffff}) {
    EXPECT_THROW(parse(with(12, value)), Error) << "vocabulary " << value;
  }
  for (const std::int32_t value : {-1, 3, 0x7fffffff}) {
    EXPECT_THROW(parse(with(24, value)), Error) << "token " << value;
  }
}

TEST(LogitFile, WhatIsWrittenIsReadBackWithinHalfACode) {
  constexpr std::int64_t kVocabulary = 37;
  const test::TempDir folder;
  const std::string path = folder / "logits.bin";
  const std::vector<std::int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8};  // one chunk: rows 4, 5, 6
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(3 * kVocabulary);
  for (float& x : logits) x = normal(random);
  logits[5] = 60;  // all others of the first row fall below the range
  LogitFileWriter writer(path, 8, kVocabulary, tokens);
  writer.write(std::span(logits).first(2 * kVocabulary));
  writer.write(std::span(logits).subspan(2 * kVocabulary));
  EXPECT_FALSE(std::filesystem::exists(path));
  writer.commit();

  const LogitFile file = LogitFile::open(path);
  EXPECT_EQ(file.tokens(), tokens);
  std::vector<float> row(kVocabulary);
  for (std::int64_t r = 0; r < 3; ++r) {
    const auto expected =
        std::span(logits).subspan(static_cast<std::size_t>(r * kVocabulary), kVocabulary);
    log_softmax(expected);
    const float highest = *std::max_element(expected.begin(), expected.end());
    file.read(0, 4 + r, row.data());
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (expected[i] <= highest - 16) {
        EXPECT_TRUE(std::isinf(row[i]));
      } else {
        EXPECT_NEAR(row[i], expected[i], 0.5 * 16 / 65535 + 1e-5);
      }
    }
  }
}

TEST(LogitFile, ReadsPlainFloatsWithTheirTokens) {
  std::string bytes;
  for (const float x : {1.0f, 2.0f, 3.0f, 0.0f, 0.0f, 0.0f}) put(bytes, x);
  const LogitFile file = parse(bytes, R"({"tokens": [2, 0], "vocabulary": 3})");
  EXPECT_EQ(file.context(), 2);
  EXPECT_EQ(file.chunks(), 1);
  EXPECT_EQ(file.first_row(), 0);
  EXPECT_EQ(file.rows(), 2);
  std::vector<float> row(3);
  file.read(0, 0, row.data());
  const double sum = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(row[static_cast<std::size_t>(i)], i + 1 - std::log(sum), 1e-6);
  }
  file.read(0, 1, row.data());
  for (const float x : row) EXPECT_NEAR(x, -std::log(3.0), 1e-6);

  for (const char* json :
       {"", "{", "[]", "{}", R"({"tokens": [2, 0]})", R"({"tokens": 3, "vocabulary": 3})",
        R"({"tokens": [2, 0], "vocabulary": 4})", R"({"tokens": [2, 3], "vocabulary": 3})",
        R"({"tokens": [2, -1], "vocabulary": 3})", R"({"tokens": [2, "0"], "vocabulary": 3})",
        R"({"tokens": [2, 0, 0], "vocabulary": 3})", R"({"tokens": [0], "vocabulary": 6})",
        R"({"tokens": [2, 0], "vocabulary": 4611686018427387904})"}) {
    EXPECT_THROW(parse(bytes, json), Error) << json;
  }
}

}  // namespace
}  // namespace sedpa
