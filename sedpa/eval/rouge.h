#pragma once
#include <string_view>

namespace sedpa {

/// ROUGE-1 (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004): how many single
/// words a text shares with a reference, each counted as often as it stands in both.
struct Rouge1 {
  double recall = 0;     // shared / words of the reference
  double precision = 0;  // shared / words of the text
  double f_measure = 0;  // harmonic mean of both
};

/// Words are runs of ASCII letters and digits in lower case; those of more than three letters are
/// stemmed, as the published needle tests do (the Python package rouge-score). All 0 when either
/// text has no words.
[[nodiscard]] Rouge1 rouge1(std::string_view reference, std::string_view text);

}  // namespace sedpa
