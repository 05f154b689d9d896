#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sedpa/engine/engine.h"

namespace CLI {
class App;
}

namespace sedpa::cli {

/// -p -f --chat --instruct --system
struct PromptOptions {
  std::optional<std::string> text;
  std::string file;
  bool chat = false;
  bool instruct = false;
  std::optional<std::string> system;

  /// Whether the model's chat template stands around the text.
  [[nodiscard]] bool uses_template() const { return chat || instruct || system.has_value(); }
};

void add_prompt_options(CLI::App& command, PromptOptions& options);
/// Throws UsageError when there is nothing to read.
void check_usage(const PromptOptions& options);

/// A prompt's tokens. The two parts are tokenised apart, so that the tokens of a saved document do
/// not depend on the question behind it.
struct Prompt {
  std::vector<std::int32_t> fixed;  // what --session keeps
  std::vector<std::int32_t> rest;

  [[nodiscard]] std::int64_t size() const {
    return static_cast<std::int64_t>(fixed.size() + rest.size());
  }
};

/// The file and the text behind it, as they are, or inside a user's turn of the model's template
/// with a blank line between. In a conversation only what stands before the user's first words.
[[nodiscard]] Prompt make_prompt(const PromptOptions& options, const Engine& engine);

/// Tokens of a conversation's first turn that stand behind make_prompt's.
[[nodiscard]] std::vector<std::int32_t> first_turn(const PromptOptions& options,
                                                   const Engine& engine, const std::string& words);

}  // namespace sedpa::cli
