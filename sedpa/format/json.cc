#include "sedpa/format/json.h"

#include "sedpa/core/fail.h"

namespace sedpa {

nlohmann::json parse_json(std::string_view text, const std::string& name, std::size_t max_bytes) {
  using nlohmann::json;
  if (text.size() > max_bytes) {
    fail("{}: {} bytes of JSON, expected at most {}", name, text.size(), max_bytes);
  }
  constexpr int kDeepest = 64;
  const auto watch_depth = [&](int depth, json::parse_event_t, json&) {
    if (depth > kDeepest) fail("{}: JSON nested deeper than {} levels", name, kDeepest);
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch_depth);
  } catch (const json::parse_error& error) {
    fail("{}: not valid JSON at byte {} of {}", name, error.byte, text.size());
  } catch (const json::exception& error) {  // numbers beyond the range of a double
    fail("{}: not valid JSON: {}", name, error.what());
  }
}

}  // namespace sedpa
