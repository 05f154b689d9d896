// Stems and scores against NLTK and the package rouge-score: tests/reference/make_stem_vectors.py.
#include "sedpa/eval/rouge.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "sedpa/eval/porter_stemmer.h"

namespace sedpa {
namespace {

const std::string kVectors = SEDPA_SOURCE_DIR "/tests/data/eval/";

TEST(PorterStemmer, StemsAsNltkDoes) {
  std::ifstream file(kVectors + "stems.tsv");
  int words = 0;
  for (std::string word, stem; file >> word >> stem; ++words) {
    EXPECT_EQ(porter_stem(word), stem) << word;
  }
  EXPECT_GT(words, 800);
}

TEST(PorterStemmer, TakesAnyWord) {
  for (const char* word : {"", "s", "ed", "ing", "ied", "eed", "y", "yy", "7", "ally", "logi"}) {
    EXPECT_LE(porter_stem(word).size(), std::string_view(word).size()) << word;
  }
}

TEST(Rouge1, ScoresAsThePublishedPackage) {
  std::ifstream file(kVectors + "rouge1.json");
  const auto vectors = nlohmann::json::parse(file);
  const auto reference = vectors.at("reference").get<std::string>();
  ASSERT_GT(vectors.at("answers").size(), 5u);
  for (const auto& answer : vectors.at("answers")) {
    const Rouge1 score = rouge1(reference, answer.at("text").get<std::string>());
    EXPECT_DOUBLE_EQ(score.recall, answer.at("recall").get<double>()) << answer;
    EXPECT_DOUBLE_EQ(score.precision, answer.at("precision").get<double>()) << answer;
    EXPECT_DOUBLE_EQ(score.f_measure, answer.at("f_measure").get<double>()) << answer;
  }
}

TEST(Rouge1, ATextWithoutWordsSharesNothing) {
  EXPECT_EQ(rouge1("", "").f_measure, 0);
  EXPECT_EQ(rouge1("...", "word").recall, 0);
  EXPECT_EQ(rouge1("word", "...").precision, 0);
}

}  // namespace
}  // namespace sedpa
