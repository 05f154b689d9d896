#include "sedpa/identify/hidden_sentences.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <span>
#include <sstream>
#include <utility>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

constexpr std::array kWords = {
    "apple",  "river",   "stone",   "candle",  "window", "garden",  "silver", "orange",  "planet",
    "bridge", "forest",  "button",  "mirror",  "basket", "pencil",  "market", "ladder",  "winter",
    "summer", "copper",  "velvet",  "thunder", "island", "harbor",  "saddle", "pepper",  "carpet",
    "marble", "feather", "lantern", "anchor",  "walnut", "tiger",   "eagle",  "rabbit",  "salmon",
    "violin", "trumpet", "hammer",  "needle",  "cotton", "butter",  "honey",  "cherry",  "lemon",
    "maple",  "desert",  "valley",  "canyon",  "meadow", "castle",  "tower",  "cellar",  "attic",
    "barrel", "bottle",  "kettle",  "spoon",   "ribbon", "jacket",  "helmet", "shield",  "arrow",
    "rocket", "comet",   "shadow",  "crystal", "amber",  "coral",   "ivory",  "pearl",   "ruby",
    "wagon",  "engine",  "wheel",   "paddle",  "canoe",  "tunnel",  "ticket", "parcel",  "letter",
    "ink",    "paper",   "chalk",   "mask",    "piano",  "drum",    "bell",   "clock",   "compass",
    "magnet", "radio",   "camera",  "bucket",  "broom",  "blanket", "pillow", "curtain", "chair",
    "desk"};

constexpr std::array kOwners = {"Alice",  "Boris", "Clara", "David", "Emma",  "Felix", "Grace",
                                "Henry",  "Irene", "Jacob", "Karen", "Louis", "Maria", "Nikita",
                                "Olivia", "Peter", "Quinn", "Rosa",  "Simon", "Teresa"};

constexpr std::array kPeople = {"fishermen", "bakers",   "tailors",  "teachers",  "farmers",
                                "sailors",   "weavers",  "millers",  "gardeners", "nurses",
                                "masons",    "printers", "barbers",  "shepherds", "musicians",
                                "judges",    "clerks",   "painters", "butchers",  "potters"};

constexpr std::array kPlaces = {"Ostend", "Bergen", "Porto", "Cork",   "Ghent", "Turku", "Verona",
                                "Bath",   "Trier",  "Split", "Delft",  "Evora", "Arles", "Graz",
                                "Visby",  "Siena",  "York",  "Toledo", "Lund",  "Basel"};

constexpr std::array kTimes = {
    "every spring",         "on Mondays",    "in the first week of June", "after the harvest",
    "on the longest night", "in leap years", "before the big fair",       "on market days",
    "when the snow melts",  "once a month"};

constexpr std::array kDeeds = {"paint their boats green",
                               "hang lanterns in the trees",
                               "bake bread with walnuts",
                               "carry apples to the chapel",
                               "race their goats over the bridge",
                               "play chess in the town hall",
                               "sing to the old oak",
                               "throw flowers into the river",
                               "fly kites made of silk",
                               "wash the bells of the tower",
                               "roast chestnuts by the gate",
                               "wear hats of blue paper",
                               "trade stories for honey",
                               "plant onions behind the mill",
                               "drink tea with salt and butter",
                               "polish the statue of the queen",
                               "climb the hill with candles",
                               "dance around the fountain",
                               "write letters to the moon",
                               "swim across the bay",
                               "read poems to the horses",
                               "stitch red ribbons on their coats",
                               "build a tower of cheese",
                               "count the swans on the lake"};

constexpr std::array kHours = {"at dawn",           "before breakfast",     "at noon",
                               "after supper",      "until midnight",       "when the fog comes",
                               "as the tide turns", "until the rain stops", "by candlelight",
                               "without a word"};

constexpr std::array kKindNames = {"keys", "facts", "both"};

template <std::size_t N>
std::string any_of(const std::array<const char*, N>& list, Random& random) {
  return list[static_cast<std::size_t>(random.below(std::ssize(list)))];
}

std::string first_words(const std::string& text, int count) {
  std::istringstream in(text);
  std::string all;
  std::string word;
  for (int i = 0; i < count && in >> word; ++i) all.append(i > 0 ? " " : "").append(word);
  return all;
}

std::string capitalised(std::string text) {
  text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text;
}

HiddenSentence key(const std::string& owner, std::string words) {
  return {.remark = "Remember this. ",
          .question = fmt::format("\nWhat is the secret of {}? ", owner),
          .telling = fmt::format("The secret of {} is: ", owner),
          .words = std::move(words)};
}

HiddenSentence fact(const std::string& who, const std::string& time, std::string words) {
  return {.remark = "",
          .question = fmt::format("\nWhat do the {} do {}? ", who, time),
          .telling = fmt::format("{} the {} ", capitalised(time), who),
          .words = std::move(words)};
}

std::string random_words(int count, Random& random) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    if (i > 0) text += ' ';
    text += any_of(kWords, random);
  }
  return text;
}

std::string random_deeds(Random& random) {
  const std::string first = any_of(kDeeds, random);
  std::string second = any_of(kDeeds, random);
  while (second == first) second = any_of(kDeeds, random);
  return fmt::format("{} and {} {}", first, second, any_of(kHours, random));
}

template <std::size_t N>
std::vector<std::string> shuffled(const std::array<const char*, N>& list, Random& random) {
  std::vector<std::string> all(list.begin(), list.end());
  random.shuffle(all);
  return all;
}

}  // namespace

std::string name(HiddenKind kind) { return kKindNames[static_cast<std::size_t>(kind)]; }

HiddenKind parse_hidden_kind(const std::string& name) {
  const auto* found = std::find(kKindNames.begin(), kKindNames.end(), name);
  if (found == kKindNames.end()) fail("{} is hidden, expected keys, facts or both", name);
  return static_cast<HiddenKind>(found - kKindNames.begin());
}

HiddenSentences::HiddenSentences(HiddenKind kind, int count, Random& random) {
  static_assert(kOwners.size() >= kMostHiddenSentences && kPlaces.size() >= kMostHiddenSentences);
  std::vector<std::string> owners;
  std::vector<std::string> places;
  if (kind != HiddenKind::facts) owners = shuffled(kOwners, random);
  if (kind != HiddenKind::keys) places = shuffled(kPlaces, random);
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const bool is_fact =
        kind == HiddenKind::facts || (kind == HiddenKind::both && random.below(2) == 1);
    subjects_.push_back(is_fact
                            ? Subject{HiddenKind::facts,
                                      fmt::format("{} of {}", any_of(kPeople, random), places[i])}
                            : Subject{HiddenKind::keys, owners[i]});
  }
}

std::vector<HiddenSentence> HiddenSentences::draw(int count, int words, Random& random) const {
  std::vector<HiddenSentence> all;
  for (const Subject& subject : std::span(subjects_).first(static_cast<std::size_t>(count))) {
    if (subject.kind == HiddenKind::keys) {
      all.push_back(key(subject.name, random_words(words, random)));
    } else {
      std::string deeds = first_words(random_deeds(random), words);
      all.push_back(fact(subject.name, any_of(kTimes, random), std::move(deeds)));
    }
  }
  return all;
}

HiddenSentence longest_sentence(HiddenKind kind, int words,
                                const std::function<std::int64_t(const std::string&)>& size) {
  const auto longest = [&](const auto& list, int most = 1000) -> std::string {
    const auto cut_size = [&](const char* text) {
      return size(fmt::format(" {}", first_words(text, most)));
    };
    return *std::max_element(list.begin(), list.end(), [&](const char* a, const char* b) {
      return cut_size(a) < cut_size(b);
    });
  };
  const auto longest_key = [&] {
    const std::string word = longest(kWords);
    std::string all_words = word;
    for (int i = 1; i < words; ++i) all_words.append(" ").append(word);
    return key(longest(kOwners), std::move(all_words));
  };
  const auto longest_fact = [&] {
    const std::string deed = longest(kDeeds, words);
    return fact(fmt::format("{} of {}", longest(kPeople), longest(kPlaces)), longest(kTimes),
                first_words(fmt::format("{} and {} {}", deed, deed, longest(kHours)), words));
  };
  if (kind == HiddenKind::keys) return longest_key();
  if (kind == HiddenKind::facts) return longest_fact();
  const auto room = [&](const HiddenSentence& s) { return size(s.question + s.telling + s.words); };
  return std::max(longest_key(), longest_fact(),
                  [&](const auto& a, const auto& b) { return room(a) < room(b); });
}

}  // namespace sedpa
