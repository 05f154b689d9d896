#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "sedpa/compress/calibration.h"
#include "sedpa/engine/engine.h"

namespace sedpa::cli {

struct CalibrationTextOptions {
  std::string path;                     // a text file, a JSONL file, or a directory of them
  std::int64_t tokens = 16384;          // of all sequences; a shorter text gives fewer
  std::optional<std::int64_t> context;  // tokens of a sequence
  std::uint64_t seed = 1;
  bool probes_only = false;  // measure the result alone: nothing is gathered over sequences
  bool thin_heads = false;   // longer sequences, and more hidden farther away
};

/// What a model is shown while it is compressed: ordinary text and, in a quarter of the sequences,
/// hidden keys and facts that are asked for; and probes of both kinds from a part of the text that
/// the sequences never show. Throws Error when the text cannot be read, is too short for the
/// context asked for, or so short that nothing can be hidden in it.
[[nodiscard]] CalibrationText make_calibration_text(const Engine& engine,
                                                    const CalibrationTextOptions& options);

}  // namespace sedpa::cli
