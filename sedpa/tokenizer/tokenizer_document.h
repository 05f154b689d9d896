#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace sedpa {

/// The JSON of a tokenizer.json with its two long lists taken out: model.vocab and model.merges
/// hold hundreds of thousands of texts, for which a tree of JSON values takes most of the time
/// that loading takes.
struct TokenizerDocument {
  struct Text {
    std::size_t begin = 0;
    std::size_t size = 0;
  };
  struct Token {
    Text text;
    std::int64_t id = 0;  // beyond 2^63: -1
  };
  struct Merge {
    Text left;
    Text right;
  };

  nlohmann::json rest;  // everything else; an empty object or array where a list was
  std::string bytes;    // the texts of both lists, end to end
  std::vector<Token> vocab;
  std::vector<Merge> merges;

  [[nodiscard]] std::string_view text(const Text& t) const {
    return std::string_view(bytes).substr(t.begin, t.size);
  }
};

/// Throws Error naming `name` and the place: longer than 128 MiB, nested deeper than 64, not UTF-8
/// or not JSON, a vocabulary entry that is no integer, a merge that is not two texts ("a b" or
/// ["a", "b"]).
[[nodiscard]] TokenizerDocument parse_tokenizer_document(std::string_view text,
                                                         const std::string& name);

}  // namespace sedpa
