#pragma once
#include <functional>
#include <optional>
#include <string>

#include "cli/common.h"
#include "sedpa/identify/filler_text.h"
#include "sedpa/identify/gate_learner.h"

// `sedpa identify`: what the methods have in common. Each has a file of its own.
namespace sedpa::cli {

/// What only the method gates has.
struct GateOptions {
  GateLearning learning;
  std::int64_t shortest = 1000;  // tokens of a document
  std::string resume;
  std::int64_t checkpoint_every = 100;  // steps
  bool raw = false;
};

struct IdentifyOptions {
  ModelOptions model;
  std::string output;
  std::string method = "output-error";
  std::string text;
  std::string hide = "keys";  // a HiddenKind
  std::optional<std::int64_t> context;
  std::int64_t chunk = 0;
  int prompts = 4;
  std::uint64_t seed = 1;
  std::int32_t sink = 128;
  std::int32_t recent = 256;
  GateOptions gates;
};

/// Scores heads on prompts that the model only reads: the methods output-error and copy-score.
void identify_by_scores(const IdentifyOptions& options);
/// Trains gates: the method gates.
void identify_by_gates(const IdentifyOptions& options);

/// What --context says, else `usual` or as much of it as the model takes. Throws Error when that
/// lies within the window, so that no head could lose anything.
[[nodiscard]] std::int64_t identify_context(const IdentifyOptions& options,
                                            const ModelConfig& config, std::int64_t usual);
/// Makes the output directory and throws Error when nothing can be written there: found before
/// minutes of work, not after.
void check_writable(const std::string& directory);

}  // namespace sedpa::cli
