#include "sedpa/eval/rouge.h"

#include <algorithm>
#include <map>
#include <string>

#include "sedpa/eval/porter_stemmer.h"

namespace sedpa {
namespace {

constexpr std::size_t kUnstemmed = 3;  // letters

struct Words {
  std::map<std::string, int> counts;
  int total = 0;
};

// -1 for what is no letter or digit.
int word_character(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A' + 'a';
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : -1;
}

Words words_of(std::string_view text) {
  Words words;
  std::string word;
  const auto finish = [&] {
    if (word.empty()) return;
    ++words.counts[word.size() > kUnstemmed ? porter_stem(word) : word];
    ++words.total;
    word.clear();
  };
  for (const char c : text) {
    if (const int letter = word_character(c); letter >= 0) {
      word += static_cast<char>(letter);
    } else {
      finish();
    }
  }
  finish();
  return words;
}

}  // namespace

Rouge1 rouge1(std::string_view reference, std::string_view text) {
  const Words expected = words_of(reference);
  const Words found = words_of(text);
  int shared = 0;
  for (const auto& [word, count] : expected.counts) {
    const auto there = found.counts.find(word);
    if (there != found.counts.end()) shared += std::min(count, there->second);
  }
  if (shared == 0) return {};
  const double recall = static_cast<double>(shared) / expected.total;
  const double precision = static_cast<double>(shared) / found.total;
  return {.recall = recall,
          .precision = precision,
          .f_measure = 2 * recall * precision / (recall + precision)};
}

}  // namespace sedpa
