#include "sedpa/tokenizer/chat_template.h"

#include <fmt/format.h>

#include <string_view>

#include "sedpa/core/fail.h"
#include "sedpa/format/printable.h"
#include "sedpa/tokenizer/normalizer.h"
#include "sedpa/tokenizer/regex.h"

namespace sedpa {

namespace {

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

bool matches(std::string_view text, std::string_view pattern) {
  const Regex regex(pattern, "chat template");
  Regex::Scratch scratch;
  Regex::Match match;
  return is_utf8(text) && regex.find(text, 0, scratch, match);
}

std::string_view trimmed(std::string_view text) {
  text.remove_suffix(white_space(text, true));
  text.remove_prefix(white_space(text, false));
  return text;
}

/// A Jinja string's characters: \n, \t, \' and the like resolved.
std::string unescaped(std::string_view literal) {
  std::string text;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      text += literal[i];
      continue;
    }
    const char c = literal[++i];
    text += c == 'n' ? '\n' : c == 't' ? '\t' : c;
  }
  return text;
}

/// The text between `before` and `after` when it is one piece of a string literal: neither ends the
/// string nor leaves the expression. Empty when there is no such place.
std::string literal_between(std::string_view jinja, std::string_view before,
                            std::string_view after) {
  for (std::size_t at = jinja.find(before); at != std::string_view::npos;
       at = jinja.find(before, at + 1)) {
    const std::size_t begin = at + before.size();
    const std::size_t end = jinja.find(after, begin);
    if (end == std::string_view::npos) break;
    const std::string_view literal = jinja.substr(begin, end - begin);
    // Which quote opened the string decides which one may stand inside it.
    const std::size_t opening = jinja.find_last_of("'\"", at);
    const char quote = opening == std::string_view::npos ? '\'' : jinja[opening];
    bool whole = !literal.empty() && !has(literal, "{{") && !has(literal, "{%");
    for (std::size_t i = 0; i < literal.size(); ++i) {
      if (literal[i] == '\\') {
        ++i;
      } else if (literal[i] == quote) {
        whole = false;
      }
    }
    if (whole) return unescaped(literal);
  }
  return {};
}

/// The string literal that holds `core` and nothing else but spaces; `core` itself when none does.
std::string literal_around(std::string_view jinja, std::string_view core) {
  for (std::size_t at = jinja.find(core); at != std::string_view::npos;
       at = jinja.find(core, at + 1)) {
    std::size_t begin = at;
    std::size_t end = at + core.size();
    while (begin > 0 && jinja[begin - 1] == ' ') --begin;
    while (end < jinja.size() && jinja[end] == ' ') ++end;
    if (begin == 0 || end == jinja.size()) continue;
    const char quote = jinja[begin - 1];
    if ((quote == '\'' || quote == '"') && jinja[end] == quote) {
      return std::string(jinja.substr(begin, end - begin));
    }
  }
  return std::string(core);
}

void read_chatml(const std::string& jinja, ChatTemplate& chat) {
  for (const std::string_view newline : {"\\n", "\n"}) {
    if (!chat.default_system.empty()) break;
    chat.default_system =
        literal_between(jinja, "<|im_start|>system" + std::string(newline), "<|im_end|>");
  }
  chat.drop_thinking = has(jinja, "</think>");
  chat.trim = matches(jinja, R"(content('\]|"\])?\s*\|\s*trim|content('\]|"\])?\.strip\(\))") &&
              !chat.drop_thinking;
}

void read_llama3(const std::string& jinja, ChatTemplate& chat) {
  chat.trim = matches(jinja, R"(content('\]|"\])?\s*\|\s*trim)");
  const std::string cutting = literal_between(jinja, "Cutting Knowledge Date: ", "\\n");
  if (cutting.empty()) return;
  const std::string today = literal_between(jinja, "set date_string = \"", "\"");
  chat.system_preamble = "Cutting Knowledge Date: " + cutting +
                         "\nToday Date: " + (today.empty() ? "26 Jul 2024" : today) + "\n\n";
}

void read_mistral(const std::string& jinja, ChatTemplate& chat) {
  chat.user_prefix = literal_around(jinja, "[INST]");
  chat.user_suffix = literal_around(jinja, "[/INST]");
  static constexpr std::string_view kAnswer =
      R"((['"]) \1\s*\+\s*message(\[['"]content['"]\]|\.content)(\s*\|\s*trim)?\s*\+\s*eos_token)";
  if (matches(jinja, kAnswer)) chat.answer_prefix.assign(1, ' ');
  if (matches(jinja, R"(eos_token\s*\+\s*(['"]) \1)")) chat.answer_suffix.assign(1, ' ');
  chat.system_in_last_turn = matches(jinja, R"(loop\.last and system_message)");
  chat.trim_answers =
      matches(jinja, R"(message(\[['"]content['"]\]|\.content)\s*\|\s*trim\s*\+\s*eos_token)");
  if (has(jinja, "[SYSTEM_PROMPT]")) {
    chat.family = ChatFamily::mistral_v7;
  } else {
    chat.family =
        chat.user_suffix.starts_with(' ') ? ChatFamily::mistral_v1 : ChatFamily::mistral_v3;
  }
}

/// The conversation as the families with strict turns want it.
struct Turns {
  std::string_view system;
  std::span<const ChatMessage> turns;  // user, assistant, user, ...
};

Turns strict_turns(const ChatTemplate& chat, std::span<const ChatMessage> messages) {
  Turns result{.system = chat.default_system, .turns = messages};
  if (!messages.empty() && messages.front().role == "system") {
    result.system = messages.front().content;
    result.turns = messages.subspan(1);
  }
  for (std::size_t i = 0; i < result.turns.size(); ++i) {
    const std::string_view expected = i % 2 == 0 ? "user" : "assistant";
    if (result.turns[i].role != expected) {
      fail("chat message {} is from {}, expected {}: {} wants user and assistant in turn",
           i + messages.size() - result.turns.size(), printable(result.turns[i].role), expected,
           name(chat.family));
    }
  }
  return result;
}

std::string content_of(const ChatTemplate& chat, const ChatMessage& message) {
  std::string_view content = message.content;
  if (chat.drop_thinking && message.role == "assistant") {
    const std::size_t thought = content.rfind("</think>");
    if (thought != std::string_view::npos) {
      content.remove_prefix(thought + 8);
      while (content.starts_with('\n')) content.remove_prefix(1);
    }
  }
  const bool trim = chat.trim || (chat.trim_answers && message.role == "assistant");
  return std::string(trim ? trimmed(content) : content);
}

std::string chatml_turn(std::string_view role, std::string_view content) {
  return fmt::format("<|im_start|>{}\n{}<|im_end|>\n", role, content);
}

std::string llama3_turn(std::string_view role, std::string_view content) {
  return fmt::format("<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>", role, content);
}

std::string render_marked(const ChatTemplate& chat, std::span<const ChatMessage> messages,
                          bool add_generation_prompt) {
  const bool chatml = chat.family == ChatFamily::chatml;
  const auto turn = chatml ? chatml_turn : llama3_turn;
  std::string text = chat.bos;
  const bool has_system = !messages.empty() && messages.front().role == "system";
  if (has_system || !chat.default_system.empty() || !chat.system_preamble.empty()) {
    const std::string system =
        has_system ? content_of(chat, messages.front()) : chat.default_system;
    text += turn("system", chat.system_preamble + system);
  }
  for (const ChatMessage& message : messages.subspan(has_system ? 1 : 0)) {
    text += turn(message.role, content_of(chat, message));
  }
  if (add_generation_prompt) {
    text +=
        chatml ? "<|im_start|>assistant\n" : "<|start_header_id|>assistant<|end_header_id|>\n\n";
  }
  return text;
}

std::string render_llama2(const ChatTemplate& chat, std::span<const ChatMessage> messages) {
  const auto [system, turns] = strict_turns(chat, messages);
  std::string text;
  for (std::size_t i = 0; i < turns.size(); ++i) {
    std::string content = turns[i].content;
    if (i == 0 && !system.empty()) {
      content = fmt::format("<<SYS>>\n{}\n<</SYS>>\n\n{}", system, content);
    }
    if (chat.trim) content = trimmed(content);
    text +=
        i % 2 == 0 ? chat.bos + "[INST] " + content + " [/INST]" : " " + content + " " + chat.eos;
  }
  return text;
}

std::string render_mistral(const ChatTemplate& chat, std::span<const ChatMessage> messages) {
  const auto [system, turns] = strict_turns(chat, messages);
  std::string text = chat.bos;
  const bool own_block = chat.family == ChatFamily::mistral_v7;
  if (own_block && !system.empty()) {
    text += fmt::format("[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]", system);
  }
  const std::size_t with_system = chat.system_in_last_turn ? turns.size() - 1 : 0;
  for (std::size_t i = 0; i < turns.size(); ++i) {
    std::string content = content_of(chat, turns[i]);
    if (i % 2 == 1) {
      text += chat.answer_prefix + content + chat.eos + chat.answer_suffix;
      continue;
    }
    if (!own_block && !system.empty() && i == with_system) {
      content = fmt::format("{}\n\n{}", system, content);
    }
    text += chat.user_prefix + content + chat.user_suffix;
  }
  return text;
}

}  // namespace

ChatTemplate recognise_chat_template(const std::string& jinja, const std::string& bos,
                                     const std::string& eos) {
  ChatTemplate chat;
  chat.eos = eos;
  if (has(jinja, "bos_token")) chat.bos = bos;
  if (has(jinja, "<|im_start|>") && has(jinja, "<|im_end|>")) {
    chat.family = ChatFamily::chatml;
    read_chatml(jinja, chat);
  } else if (has(jinja, "<|start_header_id|>") && has(jinja, "<|eot_id|>")) {
    chat.family = ChatFamily::llama3;
    read_llama3(jinja, chat);
  } else if (has(jinja, "[INST]") && has(jinja, "<<SYS>>")) {
    chat.family = ChatFamily::llama2;
    chat.trim = has(jinja, "strip()") || matches(jinja, R"(content\s*\|\s*trim)");
  } else if (has(jinja, "[INST]") && has(jinja, "[/INST]")) {
    read_mistral(jinja, chat);
  } else {
    fail(
        "chat template {} is of no known family, expected chatml, llama2, llama3 or mistral markup",
        printable(jinja));
  }
  return chat;
}

std::string render_chat(const ChatTemplate& chat, std::span<const ChatMessage> messages,
                        bool add_generation_prompt) {
  switch (chat.family) {
    case ChatFamily::chatml:
    case ChatFamily::llama3:
      return render_marked(chat, messages, add_generation_prompt);
    case ChatFamily::llama2:
      return render_llama2(chat, messages);
    case ChatFamily::mistral_v1:
    case ChatFamily::mistral_v3:
    case ChatFamily::mistral_v7:
      return render_mistral(chat, messages);
  }
  return {};
}

std::string render_next_turn(const ChatTemplate& chat, const std::string& user, bool ended) {
  const std::string content = content_of(chat, {.role = "user", .content = user});
  switch (chat.family) {
    case ChatFamily::chatml:
      return fmt::format("{}\n{}<|im_start|>assistant\n", ended ? "" : "<|im_end|>",
                         chatml_turn("user", content));
    case ChatFamily::llama3:
      return fmt::format("{}{}<|start_header_id|>assistant<|end_header_id|>\n\n",
                         ended ? "" : "<|eot_id|>", llama3_turn("user", content));
    case ChatFamily::llama2:
      return fmt::format("{}{}{}[INST] {} [/INST]", ended ? "" : " ", ended ? "" : chat.eos,
                         chat.bos, content);
    case ChatFamily::mistral_v1:
    case ChatFamily::mistral_v3:
    case ChatFamily::mistral_v7:
      return fmt::format("{}{}{}{}{}", ended ? "" : chat.eos, chat.answer_suffix, chat.user_prefix,
                         content, chat.user_suffix);
  }
  return {};
}

std::string name(ChatFamily family) {
  switch (family) {
    case ChatFamily::chatml:
      return "chatml";
    case ChatFamily::llama2:
      return "llama2";
    case ChatFamily::llama3:
      return "llama3";
    case ChatFamily::mistral_v1:
      return "mistral-v1";
    case ChatFamily::mistral_v3:
      return "mistral-v3";
    case ChatFamily::mistral_v7:
      return "mistral-v7";
  }
  return "?";
}

}  // namespace sedpa
