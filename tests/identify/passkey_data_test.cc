// What the prompts must be, whatever the tokenizer: exact length, keys told once inside the
// document, answered by the same tokens behind it, and the same for the same seed.
#include "sedpa/identify/passkey_data.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "sedpa/core/error.h"
#include "sedpa/format/gguf.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace sedpa {
namespace {

// Numbered sentences, eight to a paragraph, without digits that could be taken for a pass key.
std::string filler_text(int sentences) {
  std::string text;
  for (int i = 0; i < sentences; ++i) {
    std::string number;
    for (int n = i + 1; n > 0; n /= 26) number += static_cast<char>('a' + n % 26);
    text += "Sentence " + number + " says that nothing much happened.";
    text += i % 8 == 7 ? "\n\n" : " ";
  }
  return text;
}

Tokenizer tiny_tokenizer() {
  const test::TempDir folder;
  const std::string path = folder / "vocabulary.gguf";
  test::write_tiny_vocabulary(path);
  return Tokenizer::from_gguf(GgufFile::open(path));
}

class PasskeyData : public testing::Test {
 protected:
  PasskeyPrompt prompt(std::int64_t tokens, int keys, int words, std::uint64_t seed,
                       HiddenKind kind = HiddenKind::keys) {
    Random random(seed);
    return make_passkey_prompt(tokenizer_, filler_,
                               {.tokens = tokens, .keys = keys, .words = words, .hidden = kind},
                               random);
  }
  PasskeyQuestion question(std::int64_t tokens, double depth, std::uint64_t seed) {
    Random passage(seed);
    Random digits(seed);
    return make_passkey_question(tokenizer_, filler_,
                                 {.tokens = tokens, .depth = depth, .digits = 7}, passage, digits);
  }
  std::string text(const std::vector<std::int32_t>& tokens, std::int64_t begin, std::int64_t end) {
    return tokenizer_.decode(std::span(tokens).subspan(static_cast<std::size_t>(begin),
                                                       static_cast<std::size_t>(end - begin)));
  }

  const Tokenizer tokenizer_ = tiny_tokenizer();
  const FillerText filler_ = FillerText(tokenizer_, filler_text(2000), "made up");
};

std::string without_space(std::string text) {
  if (text.starts_with(' ')) text.erase(0, 1);
  return text;
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

TEST_F(PasskeyData, PromptTellsEachKeyOnceAndAnswersItByTheSameTokens) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const PasskeyPrompt p = prompt(9000, 10, 12, seed);
    ASSERT_EQ(std::ssize(p.tokens), 9000);
    ASSERT_EQ(p.keys.size(), 10u);
    const std::string document = text(p.tokens, 0, p.questions);
    std::int64_t last = p.questions;
    for (const HiddenKey& key : p.keys) {
      EXPECT_EQ(count(document, key.text), 1) << key.text;
      ASSERT_LE(key.told + key.count, p.questions);
      ASSERT_GE(key.answer, last);
      ASSERT_LE(key.answer + key.count, std::ssize(p.tokens));
      EXPECT_EQ(without_space(text(p.tokens, key.told, key.told + key.count)), key.text);
      EXPECT_EQ(without_space(text(p.tokens, key.answer, key.answer + key.count)), key.text);
      EXPECT_TRUE(std::equal(p.tokens.begin() + key.told, p.tokens.begin() + key.told + key.count,
                             p.tokens.begin() + key.answer));
      EXPECT_EQ(count(key.text, " "), 11);
      last = key.answer + key.count;
    }
  }
}

TEST_F(PasskeyData, FactsAreToldInPlainSentencesAndAskedFor) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const PasskeyPrompt p = prompt(9000, 20, 32, seed, HiddenKind::facts);
    ASSERT_EQ(std::ssize(p.tokens), 9000);
    ASSERT_EQ(p.keys.size(), 20u);
    const std::string document = text(p.tokens, 0, p.questions);
    EXPECT_EQ(count(document, "ecret"), 0);
    EXPECT_EQ(count(document, "emember"), 0);
    for (const HiddenKey& key : p.keys) {
      EXPECT_EQ(without_space(text(p.tokens, key.told, key.told + key.count)), key.text);
      EXPECT_TRUE(std::equal(p.tokens.begin() + key.told, p.tokens.begin() + key.told + key.count,
                             p.tokens.begin() + key.answer));
      // "What do the fishermen of Ostend do every spring? Every spring the fishermen of Ostend "
      const std::string asked = text(p.tokens, key.answer - 250, key.answer);
      const std::size_t question = asked.rfind("What do the ");
      ASSERT_NE(question, std::string::npos) << asked;
      const std::size_t mark = asked.find("? ", question);
      const std::string telling = asked.substr(mark + 2, asked.find_last_not_of(" ") - mark - 1);
      EXPECT_EQ(count(document, telling + " " + key.text + "."), 1) << telling << key.text;
      const std::string who =
          asked.substr(question + 12, asked.find(" do ", question + 12) - question - 12);
      EXPECT_EQ(count(document, who), 1) << who;
    }
  }
}

TEST_F(PasskeyData, KeysAndFactsAreMixedByChance) {
  int secrets = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const PasskeyPrompt p = prompt(9000, 10, 8, seed, HiddenKind::both);
    ASSERT_EQ(p.keys.size(), 10u);
    secrets += count(text(p.tokens, 0, p.questions), "The secret of ");
  }
  // Of 200, with a standard deviation of 7.
  EXPECT_NEAR(secrets, 100, 35);
}

TEST_F(PasskeyData, SizesHoldWhateverIsDrawn) {
  for (const HiddenKind kind : {HiddenKind::keys, HiddenKind::facts, HiddenKind::both}) {
    const std::int64_t least = least_prompt_tokens(tokenizer_, kind);
    const std::int64_t most = most_answer_tokens(tokenizer_, kind, 10, 32);
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      EXPECT_GE(prompt(least, 10, 32, seed, kind).keys.size(), 1u) << name(kind);
      const PasskeyPrompt p = prompt(12000, 10, 32, seed, kind);
      EXPECT_LE(std::ssize(p.tokens) - p.questions, most) << name(kind);
    }
  }
}

TEST_F(PasskeyData, ShortPromptsHoldFewerKeysAndThenShorterOnes) {
  const std::size_t longest = prompt(5000, 3, 12, 1).keys.front().text.size();
  std::size_t keys = 3;
  std::size_t size = longest;
  for (const std::int64_t tokens : {1000, 800, 600, 500, 450, 400}) {
    const PasskeyPrompt p = prompt(tokens, 3, 12, 1);
    ASSERT_EQ(std::ssize(p.tokens), tokens);
    ASSERT_GE(p.keys.size(), 1u);
    EXPECT_LE(p.keys.size(), keys);
    keys = p.keys.size();
    for (const HiddenKey& key : p.keys) {
      EXPECT_EQ(count(text(p.tokens, 0, p.questions), key.text), 1) << key.text;
      EXPECT_EQ(without_space(text(p.tokens, key.answer, key.answer + key.count)), key.text);
      if (keys == 1) size = key.text.size();
    }
  }
  EXPECT_EQ(keys, 1u);
  EXPECT_LT(size, longest / 2);
}

TEST_F(PasskeyData, KeysStandAtManyDepthsAndAreAskedInAnotherOrder) {
  int quarters[4] = {};
  int ascending = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const PasskeyPrompt p = prompt(9000, 10, 8, seed);
    for (const HiddenKey& key : p.keys) ++quarters[4 * key.told / p.questions];
    ascending += std::is_sorted(p.keys.begin(), p.keys.end(),
                                [](const auto& a, const auto& b) { return a.told < b.told; })
                     ? 1
                     : 0;
  }
  // 200 keys: 50 a quarter are expected, with a standard deviation of 6.
  for (const int keys : quarters) EXPECT_GT(keys, 20);
  EXPECT_LE(ascending, 1);
}

TEST_F(PasskeyData, SentencesAreNotCutWhereAParagraphIsNear) {
  const PasskeyPrompt p = prompt(9000, 4, 8, 5);
  const std::string document = text(p.tokens, 0, p.questions);
  for (const HiddenKey& key : p.keys) {
    const std::string before = text(p.tokens, key.told - 60, key.told);
    EXPECT_NE(before.find("\n\nRemember this."), std::string::npos) << before;
    const std::size_t lead = before.find("Remember this.");
    const std::size_t end = before.find_last_not_of(" \n", lead - 1);
    EXPECT_EQ(before[end], '.') << before;
  }
}

TEST_F(PasskeyData, SameSeedSamePrompt) {
  EXPECT_EQ(prompt(5000, 5, 8, 7).tokens, prompt(5000, 5, 8, 7).tokens);
  EXPECT_NE(prompt(5000, 5, 8, 7).tokens, prompt(5000, 5, 8, 8).tokens);
  EXPECT_EQ(question(3000, 0.5, 7).tokens, question(3000, 0.5, 7).tokens);
  EXPECT_NE(question(3000, 0.5, 7).key, question(3000, 0.5, 8).key);
}

TEST_F(PasskeyData, QuestionHidesItsKeyAtTheDepthAskedFor) {
  for (const double depth : {0.0, 0.25, 0.5, 0.9, 1.0}) {
    const PasskeyQuestion q = question(4000, depth, 11);
    ASSERT_EQ(std::ssize(q.tokens), 4000);
    EXPECT_EQ(q.key.size(), 7u);
    EXPECT_NE(q.key[0], '0');
    const std::string all = tokenizer_.decode(q.tokens);
    EXPECT_EQ(count(all, q.key), 2);  // told twice in one breath
    EXPECT_TRUE(all.ends_with("What is the pass key? The pass key is"));
    // Moved to the next break at most, plus the introduction and the question.
    EXPECT_NEAR(static_cast<double>(q.told) / 4000, depth, 0.08);
    EXPECT_TRUE(text(q.tokens, q.told, 4000).starts_with("\n\nThe pass key is " + q.key));
  }
}

template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(PasskeyData, SaysWhatDoesNotFit) {
  EXPECT_NE(error_of([&] { prompt(40, 10, 8, 1); }).find("40 tokens are too short"),
            std::string::npos);
  EXPECT_NE(error_of([&] { prompt(10000000, 10, 8, 1); }).find("made up: the text has"),
            std::string::npos);
  EXPECT_NE(error_of([&] { prompt(9000, 0, 8, 1); }).find("0 keys"), std::string::npos);
  EXPECT_NE(error_of([&] { prompt(9000, 21, 8, 1); }).find("21 keys"), std::string::npos);
  EXPECT_NE(error_of([&] { question(4000, 1.5, 1); }).find("depth is 1.5"), std::string::npos);
  EXPECT_NE(error_of([&] { question(40, 0.5, 1); }).find("40 tokens are too short"),
            std::string::npos);
}

}  // namespace
}  // namespace sedpa
