// Prompts against what the models' own templates give, rendered by Jinja
// (tests/reference/make_chat_vectors.py).
#include "sedpa/tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sedpa/core/error.h"

namespace sedpa {
namespace {

nlohmann::json vectors() {
  std::ifstream file(SEDPA_SOURCE_DIR "/tests/data/tokenizer/chat.json");
  return nlohmann::json::parse(file);
}

ChatTemplate recognised(const nlohmann::json& entry) {
  return recognise_chat_template(entry["template"].get<std::string>(),
                                 entry["bos"].get<std::string>(), entry["eos"].get<std::string>());
}

std::vector<ChatMessage> messages_of(const nlohmann::json& list) {
  std::vector<ChatMessage> messages;
  for (const auto& message : list) {
    messages.push_back({message["role"].get<std::string>(), message["content"].get<std::string>()});
  }
  return messages;
}

TEST(ChatTemplate, SamePromptsAsJinja) {
  int cases = 0;
  for (const auto& entry : vectors()) {
    SCOPED_TRACE(entry["name"].get<std::string>());
    const ChatTemplate chat = recognised(entry);
    EXPECT_EQ(name(chat.family), entry["family"].get<std::string>());
    for (const auto& conversation : entry["cases"]) {
      EXPECT_EQ(render_chat(chat, messages_of(conversation["messages"]), true),
                conversation["prompt"].get<std::string>());
      ++cases;
    }
  }
  EXPECT_GE(cases, 50);
}

// A conversation kept in the cache: the first prompt, the model's answer, and what is appended for
// the next turn make the prompt that the template gives for the whole.
TEST(ChatTemplate, TurnsAppendedMakeTheWholePrompt) {
  for (const auto& entry : vectors()) {
    SCOPED_TRACE(entry["name"].get<std::string>());
    const ChatTemplate chat = recognised(entry);
    const std::vector<ChatMessage> all = {{"user", "One"}, {"assistant", "Two"}, {"user", "Three"}};
    const std::string whole = render_chat(chat, all, true);
    const std::string first = render_chat(chat, std::span(all).first(1), true);
    // What the model itself writes: the families with [INST] begin it with a space.
    const bool spaced = chat.family == ChatFamily::llama2 || chat.answer_prefix == " ";
    const std::string answer = spaced ? " Two" : "Two";
    EXPECT_EQ(first + answer + render_next_turn(chat, "Three", false), whole);
    const std::string end = chat.family == ChatFamily::chatml   ? "<|im_end|>"
                            : chat.family == ChatFamily::llama3 ? "<|eot_id|>"
                            : chat.family == ChatFamily::llama2 ? " </s>"
                                                                : "</s>";
    EXPECT_EQ(first + answer + end + render_next_turn(chat, "Three", true), whole);
  }
}

TEST(ChatTemplate, DefaultSystemMessages) {
  for (const auto& entry : vectors()) {
    const ChatTemplate chat = recognised(entry);
    const std::string name_of = entry["name"];
    if (name_of == "SmolLM2") {
      EXPECT_EQ(chat.default_system,
                "You are a helpful AI assistant named SmolLM, trained by Hugging Face");
    }
    if (name_of == "Qwen-Qwen3-0.6B") {
      EXPECT_EQ(chat.default_system, "");
    }
  }
}

TEST(ChatTemplate, ThinkingIsDroppedFromAnswers) {
  for (const auto& entry : vectors()) {
    if (entry["name"] != "Qwen-Qwen3-0.6B") continue;
    const std::vector<ChatMessage> all = {
        {"user", "One"}, {"assistant", "<think>\nhm\n</think>\n\nTwo"}, {"user", "Three"}};
    EXPECT_EQ(render_chat(recognised(entry), all, true),
              "<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\nTwo<|im_end|>\n"
              "<|im_start|>user\nThree<|im_end|>\n<|im_start|>assistant\n");
  }
}

std::string error_of(const auto& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(ChatTemplate, UnknownFamiliesAreNamed) {
  const std::string error = error_of([] {
    (void)recognise_chat_template("{{ bos_token }}<start_of_turn>user", "<bos>", "<eos>");
  });
  EXPECT_NE(error.find("<start_of_turn>"), std::string::npos) << error;
  EXPECT_NE(error.find("chatml, llama2, llama3 or mistral"), std::string::npos) << error;
  EXPECT_EQ(error.find('\n'), std::string::npos);
  EXPECT_NE(error_of([] { (void)recognise_chat_template("", "", ""); }), "no error");
}

TEST(ChatTemplate, TurnsOutOfOrderAreRefused) {
  ChatTemplate chat;
  chat.family = ChatFamily::llama2;
  const std::vector<ChatMessage> twice = {{"user", "a"}, {"user", "b"}};
  const std::string error = error_of([&] { (void)render_chat(chat, twice, true); });
  EXPECT_NE(error.find("message 1"), std::string::npos) << error;
}

}  // namespace
}  // namespace sedpa
