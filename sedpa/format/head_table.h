#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace sedpa {

/// A number for each head of each layer: a row a layer, tab separated, as DuoAttention writes
/// gates.
struct HeadTable {
  int layers = 0;
  int heads = 0;                // of each layer
  std::vector<double> numbers;  // [layers, heads], finite
};

/// Throws Error naming `path`, line and column, what was found and what was expected.
[[nodiscard]] HeadTable parse_head_table(std::string_view tsv, const std::string& path);
/// Numbers are written so that they read back the same.
[[nodiscard]] std::string format_head_table(const std::vector<double>& numbers, int heads);

}  // namespace sedpa
