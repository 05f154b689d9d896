#include "sedpa/engine/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/prompt_tokens.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa {
namespace {

using test::expect_error;

// What a stop matcher must give: the text up to the stop that is whole first.
std::pair<std::string, bool> cut_at_stop(const std::string& text,
                                         const std::vector<std::string>& stops) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t first = std::string::npos;
    for (const std::string& stop : stops) {
      if (!stop.empty() && stop.size() <= end &&
          text.compare(end - stop.size(), stop.size(), stop) == 0) {
        first = std::min(first, end - stop.size());
      }
    }
    if (first != std::string::npos) return {text.substr(0, first), true};
  }
  return {text, false};
}

TEST(StopMatcher, CutsTheSameHoweverTheTextComes) {
  std::mt19937_64 random(11);
  const auto word = [&](std::size_t longest) {
    std::string text;
    for (std::size_t i = random() % (longest + 1); i > 0; --i) {
      text += static_cast<char>('a' + random() % 3);
    }
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::vector<std::string> stops = {word(4), word(6), word(3)};
    const std::string text = word(40);
    const auto [expected, expected_stop] = cut_at_stop(text, stops);
    StopMatcher matcher(stops);
    std::string got;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t piece = std::min<std::size_t>(1 + random() % 7, text.size() - at);
      got += matcher.push(text.substr(at, piece));
      at += piece;
      ASSERT_TRUE(expected.starts_with(got)) << "let out what a stop begins";
    }
    got += matcher.finish();
    ASSERT_EQ(got, expected) << text;
    ASSERT_EQ(matcher.stopped(), expected_stop);
    stopped += expected_stop ? 1 : 0;
  }
  EXPECT_GT(stopped, 300);
}

TEST(StopMatcher, HoldsBackNoMoreThanNeeded) {
  StopMatcher matcher({"\nUser:"});
  EXPECT_EQ(matcher.push("Hello"), "Hello");
  EXPECT_EQ(matcher.push(" you\nUs"), " you");
  EXPECT_EQ(matcher.push("ual"), "\nUsual");
  EXPECT_EQ(matcher.push("\n"), "");
  EXPECT_EQ(matcher.finish(), "\n");
}

class Generate : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new test::TempDir;
    const std::string path = *folder_ / "tiny.gguf";
    test::write_tiny_model(path);
    engine_ = new Engine({.model = path, .threads = 2, .compute = Compute::f32});
    engine_->load();
  }
  static void TearDownTestSuite() {
    delete engine_;
    delete folder_;
  }
  static SessionOptions options(std::int64_t context = 64) {
    return {.context = context, .heads = engine_->full_plan(), .kv = KvDtype::f32, .chunk = 8};
  }
  static std::vector<std::int32_t> prompt() {
    return engine_->tokenizer().encode("What stands in the book?", false, false);
  }
  // Greedy decoding, written for reading.
  static std::vector<std::int32_t> greedy(std::vector<std::int32_t> ids, int count) {
    Session session(*engine_, options());
    std::vector<std::int32_t> result;
    std::span<const float> logits = session.append(ids);
    for (int i = 0; i < count; ++i) {
      const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
      result.push_back(static_cast<std::int32_t>(best));
      logits = session.append(std::span(&result.back(), 1));
    }
    return result;
  }

  static test::TempDir* folder_;
  static Engine* engine_;
};
test::TempDir* Generate::folder_ = nullptr;
Engine* Generate::engine_ = nullptr;

TEST_F(Generate, TheLikeliestTokenNeedsNoLogitsOnTheHost) {
  Session session(*engine_, options());
  EXPECT_FALSE(session.has_logits());
  session.feed(prompt());
  ASSERT_TRUE(session.has_logits());
  const std::int32_t chosen = session.likeliest();
  const std::span<const float> logits = session.logits();
  EXPECT_EQ(chosen, std::max_element(logits.begin(), logits.end()) - logits.begin());
  EXPECT_EQ(session.likeliest(), chosen) << "once they have been read";
  session.clear();
  EXPECT_FALSE(session.has_logits());
}

// A filled cache stands for a text of that length: bytes are read as behind a real one.
TEST_F(Generate, AFilledCacheIsAsLongAsItSays) {
  Session session(*engine_, options());
  session.fill(40);
  EXPECT_EQ(session.length(), 40);
  EXPECT_FALSE(session.has_logits());
  const std::size_t bytes = session.decode_bytes();
  const std::int32_t token = prompt().front();
  for (const float logit : session.append({&token, 1})) ASSERT_TRUE(std::isfinite(logit));
  session.clear();
  const std::vector<std::int32_t> text(40, token);
  session.feed(text);
  EXPECT_EQ(session.decode_bytes(), bytes);
  EXPECT_THROW(session.fill(65), Error);
}

// What does not fit is told with what would.
TEST_F(Generate, ALimitNamesTheLargestContextThatFits) {
  const SessionOptions small = options(48);
  const SessionOptions large = options(64);
  EngineOptions limited{.model = engine_->model_path(), .threads = 2, .compute = Compute::f32};
  limited.memory_limit = engine_->plan(small).total();
  ASSERT_LT(*limited.memory_limit, engine_->plan(large).total());
  const Engine engine(limited);
  engine.check_memory(small);
  try {
    engine.check_memory(large);
    FAIL() << "64 tokens were accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--context of 48 "), std::string::npos)
        << error.what();
  }
}

TEST_F(Generate, IsGreedyDecodingByDefault) {
  Session session(*engine_, options());
  const GenerateResult result =
      generate(session, prompt(), {.max_tokens = 20, .ignore_end_tokens = true});
  EXPECT_EQ(result.tokens, greedy(prompt(), 20));
  EXPECT_EQ(result.reason, StopReason::max_tokens);
  EXPECT_EQ(result.prompt_tokens, static_cast<std::int64_t>(prompt().size()));
  EXPECT_EQ(result.decode_steps, 19);
  ASSERT_TRUE(result.pending.has_value());
  EXPECT_EQ(*result.pending, result.tokens.back());
  EXPECT_EQ(session.length(), result.prompt_tokens + 19);
  EXPECT_EQ(result.text, engine_->tokenizer().decode(result.tokens));
}

TEST_F(Generate, StreamsExactlyItsText) {
  Session session(*engine_, options());
  std::string streamed;
  const GenerateResult result =
      generate(session, prompt(), {.max_tokens = 30, .ignore_end_tokens = true},
               {.on_text =
                    [&](std::string_view text) {
                      streamed += text;
                      return true;
                    },
                .on_prefill = {}});
  EXPECT_EQ(streamed, result.text);
}

TEST_F(Generate, CutsAtAStopText) {
  Session free(*engine_, options());
  const std::string text =
      generate(free, prompt(), {.max_tokens = 30, .ignore_end_tokens = true}).text;
  ASSERT_GT(text.size(), 10u);
  const std::string stop = text.substr(6, 3);
  Session session(*engine_, options());
  const GenerateResult result =
      generate(session, prompt(), {.max_tokens = 30, .stops = {stop}, .ignore_end_tokens = true});
  EXPECT_EQ(result.text, text.substr(0, text.find(stop)));
  EXPECT_EQ(result.reason, StopReason::stop_text);
}

TEST_F(Generate, StopsWhenTheContextIsFull) {
  const auto ids = prompt();
  const auto length = static_cast<std::int64_t>(ids.size());
  Session session(*engine_, options(length + 3));
  const GenerateResult result =
      generate(session, ids, {.max_tokens = 50, .ignore_end_tokens = true});
  EXPECT_EQ(result.reason, StopReason::context);
  EXPECT_EQ(result.tokens.size(), 4u);  // the last needs no room
  EXPECT_EQ(session.length(), length + 3);
}

TEST_F(Generate, StopsWhenToldTo) {
  Session session(*engine_, options());
  int calls = 0;
  const GenerateResult result =
      generate(session, prompt(), {.max_tokens = 30, .ignore_end_tokens = true},
               {.on_text = [&](std::string_view) { return ++calls < 3; }, .on_prefill = {}});
  EXPECT_EQ(result.reason, StopReason::interrupted);
  EXPECT_EQ(calls, 3);
}

TEST_F(Generate, GoesOnFromWhatTheSessionHolds) {
  Session session(*engine_, options());
  session.append(prompt());
  const GenerateResult result =
      generate(session, {}, {.max_tokens = 12, .ignore_end_tokens = true});
  EXPECT_EQ(result.tokens, greedy(prompt(), 12));
  EXPECT_EQ(result.prompt_tokens, 0);
}

TEST_F(Generate, StopsAtAnEndToken) {
  // With a penalty below 1 on repeats, a prompt full of end tokens makes them likely.
  Session session(*engine_, options());
  std::vector<std::int32_t> ids(10, test::kTinyTurnEnd);
  const GenerateOptions likely_end{.max_tokens = 5, .sampler = {.repeat_penalty = 1e-6}};
  session.append(ids);
  if (session.logits()[test::kTinyTurnEnd] <= 0) GTEST_SKIP() << "the end's logit is not positive";
  const GenerateResult result = generate(session, {}, likely_end);
  EXPECT_EQ(result.reason, StopReason::end_token);
  EXPECT_TRUE(result.tokens.empty());
  EXPECT_FALSE(result.pending.has_value());
}

TEST_F(Generate, RefusesToStartFromNothing) {
  Session session(*engine_, options());
  expect_error([&] { (void)generate(session, {}, {}); }, {"no prompt"});
}

TEST_F(Generate, RefusesAPromptThatDoesNotFit) {
  Session session(*engine_, options(5));
  expect_error([&] { (void)generate(session, prompt(), {}); },
               {std::to_string(prompt().size()), "5", "--context"});
}

TEST_F(Generate, EncodesAContinuationAsItStands) {
  const Tokenizer& tokenizer = engine_->tokenizer();
  for (const char* text : {"the book", " the book", "\n\nthe", "", "\n", "<|im_end|>\n"}) {
    EXPECT_EQ(tokenizer.decode(encode_continuation(tokenizer, text), true), text);
  }
}

TEST_F(Generate, KnowsTheChatTemplate) {
  EXPECT_EQ(chat_template(engine_->tokenizer(), "tiny").family, ChatFamily::chatml);
  const std::string path = *folder_ / "plain.gguf";
  test::write_tiny_model(path, {.chat_template = false});
  const Engine plain({.model = path});
  expect_error([&] { (void)chat_template(plain.tokenizer(), path); },
               {"plain.gguf", "no chat template"});
}

}  // namespace
}  // namespace sedpa
