#include "sedpa/format/text_files.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <vector>

#include "sedpa/core/fail.h"
#include "sedpa/format/json.h"
#include "sedpa/format/mapped_file.h"

namespace sedpa {
namespace {

constexpr std::string_view kJsonLines = ".jsonl";
constexpr const char* kField = "text";

std::vector<std::string> files_of(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_directory(path, error)) return {path};
  std::vector<std::string> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
    const bool hidden = entry.path().filename().string().starts_with('.');
    if (!hidden && entry.is_regular_file(error)) files.push_back(entry.path().string());
  }
  if (files.empty()) fail("{}: no text files in this directory", path);
  std::sort(files.begin(), files.end());
  return files;
}

class Collector {
 public:
  explicit Collector(std::size_t max_bytes) : max_bytes_(max_bytes) {}

  [[nodiscard]] bool full() const { return text_.size() >= max_bytes_; }
  void add(std::string_view document, const std::string& name) {
    document = document.substr(0, max_bytes_ - text_.size());
    if (const std::size_t zero = document.find('\0'); zero != std::string_view::npos) {
      fail("{}: is not text: byte {} is zero", name, zero);
    }
    text_ += document;
    if (!text_.empty() && !text_.ends_with("\n\n")) text_ += "\n\n";
  }
  void add_lines(std::string_view lines, const std::string& path) {
    for (std::int64_t number = 1; !lines.empty() && !full(); ++number) {
      const std::string_view line = lines.substr(0, lines.find('\n'));
      lines.remove_prefix(std::min(line.size() + 1, lines.size()));
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      const std::string name = fmt::format("{}: line {}", path, number);
      const nlohmann::json object = parse_json(line, name);
      const auto field = object.is_object() ? object.find(kField) : object.end();
      if (field == object.end() || !field->is_string()) {
        fail("{}: expected an object with a string \"{}\"", name, kField);
      }
      add(field->get_ref<const std::string&>(), name);
    }
  }
  [[nodiscard]] std::string take() { return std::move(text_); }

 private:
  std::size_t max_bytes_;
  std::string text_;
};

}  // namespace

std::string read_text_files(const std::string& path, std::size_t max_bytes) {
  Collector collector(max_bytes);
  for (const std::string& file : files_of(path)) {
    if (collector.full()) break;
    const MappedFile mapped = MappedFile::open(file);
    const std::string_view text(reinterpret_cast<const char*>(mapped.bytes().data()),
                                mapped.bytes().size());
    if (file.ends_with(kJsonLines)) {
      collector.add_lines(text, file);
    } else {
      collector.add(text, file);
    }
  }
  return collector.take();
}

}  // namespace sedpa
