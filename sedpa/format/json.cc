#include "sedpa/format/json.h"

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

template <class Json>
Json parse(std::string_view text, const std::string& name, std::size_t max_bytes) {
  if (text.size() > max_bytes) {
    fail("{}: {} bytes of JSON, expected at most {}", name, text.size(), max_bytes);
  }
  constexpr int kDeepest = 64;
  const auto watch_depth = [&](int depth, typename Json::parse_event_t, Json&) {
    if (depth > kDeepest) fail("{}: JSON nested deeper than {} levels", name, kDeepest);
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch_depth);
  } catch (const typename Json::parse_error& error) {
    fail("{}: not valid JSON at byte {} of {}", name, error.byte, text.size());
  } catch (const typename Json::exception& error) {  // numbers beyond the range of a double
    fail("{}: not valid JSON: {}", name, error.what());
  }
}

template <class Json>
std::string text_of(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& name, std::size_t max_bytes) {
  return parse<nlohmann::json>(text, name, max_bytes);
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& name,
                                          std::size_t max_bytes) {
  return parse<nlohmann::ordered_json>(text, name, max_bytes);
}

std::string json_text(const nlohmann::json& value, int indent) { return text_of(value, indent); }

std::string json_text(const nlohmann::ordered_json& value, int indent) {
  return text_of(value, indent);
}

}  // namespace sedpa
