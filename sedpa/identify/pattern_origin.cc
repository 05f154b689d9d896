#include "sedpa/identify/pattern_origin.h"

#include <ctime>
#include <filesystem>

#include "sedpa/format/json.h"

namespace sedpa {
namespace {

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[16];
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%d", &utc)};
}

}  // namespace

std::string pattern_origin(const std::string& method, const Engine& engine,
                           const FillerText& filler, std::uint64_t seed,
                           const std::string& settings_json) {
  nlohmann::ordered_json origin = {
      {"method", method},
      {"model", engine.config().name},
      {"model_fingerprint", engine.fingerprint()},
      {"text", std::filesystem::path(filler.name()).filename().string()},
      {"text_tokens", filler.size()},
      {"text_fingerprint", filler.fingerprint()},
      {"seed", seed},
      {"date", today()},
  };
  const auto settings = parse_ordered_json(settings_json, "the settings of a pattern");
  for (const auto& [key, value] : settings.items()) origin[key] = value;
  return json_text(origin);
}

}  // namespace sedpa
