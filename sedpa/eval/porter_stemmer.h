#pragma once
#include <string>
#include <string_view>

namespace sedpa {

/// The stem of an English word in lower-case ASCII letters and digits, by Porter's algorithm ("An
/// algorithm for suffix stripping", 1980) with the changes that NLTK makes to it, which the
/// published ROUGE scores use: "sitting" and "sits" become "sit".
[[nodiscard]] std::string porter_stem(std::string_view word);

}  // namespace sedpa
