#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "sedpa/engine/engine.h"
#include "sedpa/identify/filler_text.h"

namespace sedpa {

/// What the config.json of every pattern says besides its window: the method, the model by name and
/// fingerprint, the text by name, length and fingerprint, the seed, the day (UTC) and the method's
/// own `settings`, in this order.
[[nodiscard]] nlohmann::ordered_json pattern_origin(const std::string& method, const Engine& engine,
                                                    const FillerText& filler, std::uint64_t seed,
                                                    const nlohmann::ordered_json& settings);

}  // namespace sedpa
