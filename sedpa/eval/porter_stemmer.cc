#include "sedpa/eval/porter_stemmer.h"

#include <array>
#include <cstddef>
#include <functional>
#include <span>

namespace sedpa {
namespace {

using std::string;
using std::string_view;

bool is_vowel_letter(char c) { return string_view("aeiou").find(c) != string_view::npos; }

// A y is a consonant at the start and behind a vowel.
bool is_consonant(string_view word, std::size_t i) {
  if (word[i] != 'y') return !is_vowel_letter(word[i]);
  return i == 0 || !is_consonant(word, i - 1);
}

// How often a consonant follows a vowel: m in [C](VC)^m[V].
int measure(string_view word) {
  int count = 0;
  for (std::size_t i = 1; i < word.size(); ++i) {
    if (is_consonant(word, i) && !is_consonant(word, i - 1)) ++count;
  }
  return count;
}

bool has_vowel(string_view word) {
  for (std::size_t i = 0; i < word.size(); ++i) {
    if (!is_consonant(word, i)) return true;
  }
  return false;
}

bool ends_in_double_consonant(string_view word) {
  const std::size_t n = word.size();
  return n >= 2 && word[n - 1] == word[n - 2] && is_consonant(word, n - 1);
}

// Ends consonant, vowel, consonant, the last none of w, x and y; or is a vowel and a consonant.
bool ends_short(string_view word) {
  const std::size_t n = word.size();
  if (n == 2) return !is_consonant(word, 0) && is_consonant(word, 1);
  return n >= 3 && is_consonant(word, n - 3) && !is_consonant(word, n - 2) &&
         is_consonant(word, n - 1) && string_view("wxy").find(word[n - 1]) == string_view::npos;
}

bool is_above_zero(string_view stem) { return measure(stem) > 0; }
bool is_above_one(string_view stem) { return measure(stem) > 1; }

struct Rule {
  string_view ending;
  string_view instead;
};

// The first rule whose ending fits decides: it changes the word when its stem is good, else nothing
// does.
string apply(string_view word, std::span<const Rule> rules,
             const std::function<bool(string_view)>& is_good) {
  for (const Rule& rule : rules) {
    if (!word.ends_with(rule.ending)) continue;
    const string_view stem = word.substr(0, word.size() - rule.ending.size());
    return is_good(stem) ? string(stem).append(rule.instead) : string(word);
  }
  return string(word);
}

// Plurals.
string step_1a(string_view word) {
  if (word.size() == 4 && word.ends_with("ies")) return string(word.substr(0, 3));
  static constexpr std::array kRules = {Rule{"sses", "ss"}, Rule{"ies", "i"}, Rule{"ss", "ss"},
                                        Rule{"s", ""}};
  return apply(word, kRules, [](string_view) { return true; });
}

// What stands before -ed and -ing gets its e back or loses a doubled letter.
string repaired(string_view stem) {
  if (stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz")) {
    return string(stem) + "e";
  }
  if (ends_in_double_consonant(stem)) {
    const bool stays = string_view("lsz").find(stem.back()) != string_view::npos;
    return string(stem.substr(0, stem.size() - (stays ? 0 : 1)));
  }
  return measure(stem) == 1 && ends_short(stem) ? string(stem) + "e" : string(stem);
}

string step_1b(string_view word) {
  if (word.ends_with("ied"))
    return string(word.substr(0, word.size() - (word.size() == 4 ? 1 : 2)));
  if (word.ends_with("eed")) {
    return string(word.substr(0, word.size() - (is_above_zero(word.substr(0, word.size() - 3)))));
  }
  for (const string_view ending : {"ed", "ing"}) {
    if (!word.ends_with(ending)) continue;
    const string_view stem = word.substr(0, word.size() - ending.size());
    if (has_vowel(stem)) return repaired(stem);
  }
  return string(word);
}

string step_1c(string_view word) {
  static constexpr std::array kRules = {Rule{"y", "i"}};
  return apply(word, kRules, [](string_view stem) {
    return stem.size() > 1 && is_consonant(stem, stem.size() - 1);
  });
}

string step_2(string_view word) {
  if (word.ends_with("alli") && is_above_zero(word.substr(0, word.size() - 4))) {
    return step_2(word.substr(0, word.size() - 2));
  }
  // The l of -logi belongs to the stem that is measured.
  if (word.ends_with("logi") && is_above_zero(word.substr(0, word.size() - 3))) {
    return string(word.substr(0, word.size() - 1));
  }
  static constexpr std::array kRules = {
      Rule{"ational", "ate"}, Rule{"tional", "tion"}, Rule{"enci", "ence"},
      Rule{"anci", "ance"},   Rule{"izer", "ize"},    Rule{"bli", "ble"},
      Rule{"alli", "al"},     Rule{"entli", "ent"},   Rule{"eli", "e"},
      Rule{"ousli", "ous"},   Rule{"ization", "ize"}, Rule{"ation", "ate"},
      Rule{"ator", "ate"},    Rule{"alism", "al"},    Rule{"iveness", "ive"},
      Rule{"fulness", "ful"}, Rule{"ousness", "ous"}, Rule{"aliti", "al"},
      Rule{"iviti", "ive"},   Rule{"biliti", "ble"},  Rule{"fulli", "ful"}};
  return apply(word, kRules, is_above_zero);
}

string step_3(string_view word) {
  static constexpr std::array kRules = {
      Rule{"icate", "ic"}, Rule{"ative", ""}, Rule{"alize", "al"}, Rule{"iciti", "ic"},
      Rule{"ical", "ic"},  Rule{"ful", ""},   Rule{"ness", ""}};
  return apply(word, kRules, is_above_zero);
}

string step_4(string_view word) {
  static constexpr std::array kRules = {
      Rule{"al", ""},   Rule{"ance", ""}, Rule{"ence", ""}, Rule{"er", ""},    Rule{"ic", ""},
      Rule{"able", ""}, Rule{"ible", ""}, Rule{"ant", ""},  Rule{"ement", ""}, Rule{"ment", ""},
      Rule{"ent", ""},  Rule{"ion", ""},  Rule{"ou", ""},   Rule{"ism", ""},   Rule{"ate", ""},
      Rule{"iti", ""},  Rule{"ous", ""},  Rule{"ive", ""},  Rule{"ize", ""}};
  const bool is_ion = word.ends_with("ion");
  return apply(word, kRules, [&](string_view stem) {
    return is_above_one(stem) && (!is_ion || stem.ends_with('s') || stem.ends_with('t'));
  });
}

string step_5(string_view word) {
  if (word.ends_with('e')) {
    const string_view stem = word.substr(0, word.size() - 1);
    const int m = measure(stem);
    if (m > 1 || (m == 1 && !ends_short(stem))) word = stem;
  }
  if (word.ends_with("ll") && is_above_one(word.substr(0, word.size() - 1))) {
    word.remove_suffix(1);
  }
  return string(word);
}

// Words that the rules would spoil.
constexpr std::array kIrregular = {
    Rule{"sky", "sky"},        Rule{"skies", "sky"},        Rule{"dying", "die"},
    Rule{"lying", "lie"},      Rule{"tying", "tie"},        Rule{"news", "news"},
    Rule{"innings", "inning"}, Rule{"inning", "inning"},    Rule{"outings", "outing"},
    Rule{"outing", "outing"},  Rule{"cannings", "canning"}, Rule{"canning", "canning"},
    Rule{"howe", "howe"},      Rule{"proceed", "proceed"},  Rule{"exceed", "exceed"},
    Rule{"succeed", "succeed"}};

}  // namespace

string porter_stem(string_view word) {
  for (const Rule& irregular : kIrregular) {
    if (word == irregular.ending) return string(irregular.instead);
  }
  if (word.size() <= 2) return string(word);
  return step_5(step_4(step_3(step_2(step_1c(step_1b(step_1a(word)))))));
}

}  // namespace sedpa
