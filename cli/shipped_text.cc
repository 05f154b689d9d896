#include "cli/shipped_text.h"

#include <filesystem>

#include "cli/common.h"

namespace sedpa::cli {

std::string text_or_shipped(const std::string& asked) {
  if (!asked.empty()) return asked;
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  const auto text_in = [](const fs::path& root) { return root / "data" / "war_and_peace.txt"; };
  for (const fs::path& candidate : {text_in(folder / ".." / "share" / "sedpa")}) {
    if (fs::is_regular_file(candidate, error)) return candidate.lexically_normal().string();
  }
  // build/PRESET/cli/sedpa stands three folders below the root.
  for (int i = 0; i < 4 && folder.has_relative_path(); ++i, folder = folder.parent_path()) {
    if (fs::is_regular_file(text_in(folder), error)) return text_in(folder).string();
  }
  throw UsageError(
      "the text that ships with sedpa was not found beside the program; name one "
      "with --text PATH");
}

}  // namespace sedpa::cli
