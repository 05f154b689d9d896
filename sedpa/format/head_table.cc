#include "sedpa/format/head_table.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <iterator>

#include "sedpa/core/fail.h"
#include "sedpa/format/printable.h"

namespace sedpa {
namespace {

constexpr std::size_t kLongestTable = std::size_t{4} << 20;  // bytes

/// Takes everything up to `separator` off the front of `rest`, and the separator.
std::string_view take(std::string_view& rest, char separator) {
  const std::size_t length = std::min(rest.find(separator), rest.size());
  const std::string_view piece = rest.substr(0, length);
  rest.remove_prefix(std::min(length + 1, rest.size()));
  return piece;
}

std::string_view trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \r") - first + 1);
}

double parse_number(std::string_view field, const std::string& path, int line, int column) {
  const std::string_view text = trim(field);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(number)) {
    fail("{}: line {}, column {} is {}, expected a finite number", path, line, column,
         printable(field));
  }
  return number;
}

}  // namespace

HeadTable parse_head_table(std::string_view tsv, const std::string& path) {
  if (tsv.size() > kLongestTable) {
    fail("{}: {} bytes, expected at most {}", path, tsv.size(), kLongestTable);
  }
  tsv = tsv.substr(0, tsv.find_last_not_of("\r\n ") + 1);  // line ends after the last row
  if (tsv.empty()) fail("{}: is empty, expected a row of numbers for each layer", path);
  HeadTable table;
  while (!tsv.empty()) {
    std::string_view line = take(tsv, '\n');
    ++table.layers;
    int columns = 1;
    for (; line.find('\t') != std::string_view::npos; ++columns) {
      table.numbers.push_back(parse_number(take(line, '\t'), path, table.layers, columns));
    }
    table.numbers.push_back(parse_number(line, path, table.layers, columns));
    if (table.layers == 1) table.heads = columns;
    if (columns != table.heads) {
      fail("{}: line {} has {} numbers, expected {} as in the first", path, table.layers, columns,
           table.heads);
    }
  }
  return table;
}

std::string format_head_table(const std::vector<double>& numbers, int heads) {
  std::string tsv;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const bool last = (i + 1) % static_cast<std::size_t>(heads) == 0;
    fmt::format_to(std::back_inserter(tsv), "{}{}", numbers[i], last ? '\n' : '\t');
  }
  return tsv;
}

}  // namespace sedpa
