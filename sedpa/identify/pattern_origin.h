#pragma once
#include <cstdint>
#include <string>

#include "sedpa/engine/engine.h"
#include "sedpa/identify/filler_text.h"

namespace sedpa {

/// What the config.json of every pattern says besides its window, as a JSON object: the method, the
/// model by name and fingerprint, the text by name, length and fingerprint, the seed, the day (UTC)
/// and the method's own settings, in this order. `settings_json` is an object.
[[nodiscard]] std::string pattern_origin(const std::string& method, const Engine& engine,
                                         const FillerText& filler, std::uint64_t seed,
                                         const std::string& settings_json);

}  // namespace sedpa
