#pragma once
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "sedpa/format/gguf.h"

namespace sedpa {

/// The entry of a part's metadata that says which run it is of.
inline constexpr const char* kPartLabelKey = "sedpa.compress.part";
/// Null when there is no such file, or one of another run.
[[nodiscard]] std::shared_ptr<const GgufFile> open_part(const std::string& path,
                                                        const std::string& label);

/// The directory in which a run of compress keeps what is done, so that it can go on after a stop.
class Parts {
 public:
  /// Opens or makes the directory. Throws Error when it holds parts of a run with other settings.
  Parts(std::filesystem::path directory, const nlohmann::json& settings);

  /// Whether there was such a run before.
  [[nodiscard]] bool resumed() const { return resumed_; }
  [[nodiscard]] std::string path(const std::string& name) const {
    return (directory_ / name).string();
  }
  [[nodiscard]] std::string layer_path(const char* kind, std::int32_t layer) const;
  /// A JSON file of the directory; null when it is not there.
  [[nodiscard]] nlohmann::json read(const std::string& name) const;
  void write(const std::string& name, const nlohmann::json& object) const;
  /// Throws Error: a file does not hold what it should.
  [[noreturn]] void fail_damaged(const std::string& name) const;
  void remove() const;

 private:
  std::filesystem::path directory_;
  bool resumed_ = false;
};

}  // namespace sedpa
