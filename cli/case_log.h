#pragma once
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace sedpa::cli {

/// What a long run has found out so far, in a file of JSON lines, so that it can be taken up again:
/// first the settings, {"settings": {...}}, then a line for each case that is done, at last what
/// they come to.
class CaseLog {
 public:
  /// Without a path nothing is kept. `keys` are the fields that tell cases apart. A file that is
  /// there is taken up: lines of cases stay, but for one that was not finished. Throws Error when
  /// the file is of other settings, naming the first that differs, is no such file, or cannot be
  /// written.
  CaseLog(std::string path, const nlohmann::ordered_json& settings, std::vector<std::string> keys);

  /// The line of the case with the same keys as `fields`, or null.
  [[nodiscard]] const nlohmann::ordered_json* find(const nlohmann::ordered_json& fields) const;
  /// Writes a line, at once. One without all keys is what cases come to.
  void add(const nlohmann::ordered_json& line);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  [[nodiscard]] std::string key_of(const nlohmann::ordered_json& fields) const;
  void take_up(const nlohmann::ordered_json& settings);

  std::string path_;
  std::vector<std::string> keys_;
  std::map<std::string, nlohmann::ordered_json> done_;  // by key
  std::vector<std::string> lines_;                      // of cases, as they stand in the file
  std::unique_ptr<std::FILE, Close> file_;              // open at its end
};

}  // namespace sedpa::cli
