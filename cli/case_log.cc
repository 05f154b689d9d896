#include "cli/case_log.h"

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "sedpa/core/fail.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/format/json.h"
#include "sedpa/format/mapped_file.h"
#include "sedpa/format/printable.h"

namespace sedpa::cli {
namespace {

using nlohmann::ordered_json;

// For a message.
std::string shown(const ordered_json& value) {
  return value.is_string() ? printable(value.get<std::string>()) : json_text(value);
}

ordered_json parse_line(std::string_view text, const std::string& name) {
  ordered_json line = parse_ordered_json(text, name);
  if (!line.is_object()) fail("{}: expected a JSON object", name);
  return line;
}

}  // namespace

CaseLog::CaseLog(std::string path, const ordered_json& settings, std::vector<std::string> keys)
    : path_(std::move(path)), keys_(std::move(keys)) {
  if (path_.empty()) return;
  std::error_code error;
  if (std::filesystem::exists(path_, error)) take_up(settings);
  AtomicFile whole(path_);
  whole.write(json_text(ordered_json{{"settings", settings}}) + "\n");
  for (const std::string& line : lines_) whole.write(line + "\n");
  whole.commit();
  file_.reset(std::fopen(path_.c_str(), "ae"));
  if (!file_) fail("{}: cannot write: {}", path_, std::generic_category().message(errno));
}

void CaseLog::take_up(const ordered_json& settings) {
  const MappedFile file = MappedFile::open(path_);
  std::string_view rest(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  // What stands behind the last line end was not finished.
  for (int number = 1; rest.find('\n') != std::string_view::npos; ++number) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(line.size() + 1);
    const ordered_json object = parse_line(line, fmt::format("{}: line {}", path_, number));
    if (number > 1) {
      const std::string key = key_of(object);
      if (key.empty()) continue;
      lines_.emplace_back(line);
      done_[key] = object;
      continue;
    }
    if (!object.contains("settings") || !object["settings"].is_object()) {
      fail("{}: is not a file of results, expected its first line to be their settings", path_);
    }
    const ordered_json& found = object["settings"];
    for (const auto& [name, value] : settings.items()) {
      const ordered_json was = found.value(name, ordered_json());
      if (json_text(was) != json_text(value)) {
        fail(
            "{}: the results in it have other settings: {} is {}, this run's is {}; name another "
            "file",
            path_, name, shown(was), shown(value));
      }
    }
  }
}

const ordered_json* CaseLog::find(const ordered_json& fields) const {
  const auto found = done_.find(key_of(fields));
  return found == done_.end() ? nullptr : &found->second;
}

void CaseLog::add(const ordered_json& line) {
  if (!file_) return;
  const std::string text = json_text(line) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() ||
      std::fflush(file_.get()) != 0) {
    fail("{}: cannot write: {}", path_, std::generic_category().message(errno));
  }
}

// Empty when a key is missing.
std::string CaseLog::key_of(const ordered_json& fields) const {
  std::string key;
  for (const std::string& name : keys_) {
    const auto field = fields.find(name);
    if (field == fields.end()) return {};
    key += json_text(*field) + ";";
  }
  return key;
}

}  // namespace sedpa::cli
