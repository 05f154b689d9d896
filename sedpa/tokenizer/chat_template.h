#pragma once
#include <span>
#include <string>

namespace sedpa {

/// The families of chat markup that are known; "mistral" has three, which differ in their spaces.
enum class ChatFamily {
  chatml,      ///< <|im_start|>role\ncontent<|im_end|>\n (Qwen, SmolLM2, ...)
  llama2,      ///< [INST] <<SYS>>\nsystem\n<</SYS>>\n\nuser [/INST] answer </s>
  llama3,      ///< <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>
  mistral_v1,  ///< " [INST] user [/INST] answer</s>" (Mistral 0.1 and 0.2)
  mistral_v3,  ///< "[INST] user[/INST] answer</s>" (Mistral 0.3, spaces belong to the tokens)
  mistral_v7,  ///< "[SYSTEM_PROMPT] system[/SYSTEM_PROMPT][INST] user[/INST] answer</s>"
};

/// What is taken from a model's Jinja template: its family, and the texts that the family's members
/// fill in differently. Empty texts are not written.
struct ChatTemplate {
  ChatFamily family = ChatFamily::chatml;
  /// Stands in when the conversation has no system message (SmolLM2, Qwen2.5).
  std::string default_system;
  /// The begin token's text where the template itself writes it. A prompt is therefore always
  /// encoded with add_special = false and parse_special = true.
  std::string bos;
  /// The end token's text behind an assistant's answer (Llama 2, Mistral).
  std::string eos;
  /// Contents lose the white space at their ends.
  bool trim = false;
  /// Llama 3.1 and later: what stands before the system message, with the template's own date.
  std::string system_preamble;
  /// Answers lose what they thought aloud, up to "</think>" (Qwen3).
  bool drop_thinking = false;

  // Mistral: the texts around what the user says, with the spaces of the model's version.
  std::string user_prefix;           ///< "[INST] ", " [INST] " or "[INST]"
  std::string user_suffix;           ///< " [/INST]" or "[/INST]"
  std::string answer_prefix;         ///< " " or nothing
  std::string answer_suffix;         ///< behind the end token: " " or nothing
  bool system_in_last_turn = false;  ///< the system message stands before the last user message
  bool trim_answers = false;
};

struct ChatMessage {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
};

/// Reads the family out of a Jinja template by its markers. `bos` and `eos` are the texts of the
/// model's begin and end tokens. Throws Error with the template's first characters and the list of
/// families when it is none of them.
[[nodiscard]] ChatTemplate recognise_chat_template(const std::string& jinja, const std::string& bos,
                                                   const std::string& eos);

/// The conversation as the model's own template writes it; to be encoded with add_special = false
/// and parse_special = true. `add_generation_prompt` ends it where the assistant's answer begins.
/// Throws Error for a role that the family does not have, or roles out of turn.
[[nodiscard]] std::string render_chat(const ChatTemplate& chat,
                                      std::span<const ChatMessage> messages,
                                      bool add_generation_prompt);

/// For a conversation whose tokens stay in the cache: what follows the assistant's answer, up to
/// where its next answer begins. `ended` says that the answer's end token is already in the cache
/// (it was generated and fed back); otherwise the text begins with it.
[[nodiscard]] std::string render_next_turn(const ChatTemplate& chat, const std::string& user,
                                           bool ended);

/// The family's name as people write it: "chatml", "mistral-v3".
[[nodiscard]] std::string name(ChatFamily family);

}  // namespace sedpa
