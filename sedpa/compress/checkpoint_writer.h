#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "sedpa/engine/engine.h"
#include "sedpa/model/weight_source.h"

namespace sedpa {

/// Writes the engine's model to `output` with matrices and factors as `weights` has them, and thin
/// heads as `config` says, in the form it came in: a GGUF file, or a Hugging Face directory. All
/// else is copied as it is, but for what adapters say of positions. `origin_json` is an object that
/// says how the file was made: as metadata sedpa.compress.* of a GGUF file, as sedpa_compress in a
/// directory's config.json; what the model said there before stands under thin.* and `thin`.
/// Nothing stands under the name before all of it is written. Throws Error.
void write_checkpoint(const Engine& engine, const ModelConfig& config, const WeightSource& weights,
                      const std::string& origin_json, const std::string& output);

}  // namespace sedpa
