// Ids and texts against Hugging Face tokenizers and sentencepiece, on small tokenizers of every
// kind (tests/reference/make_tokenizer_vectors.py made both).
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "sedpa/format/printable.h"
#include "sedpa/tokenizer/tokenizer.h"

namespace sedpa {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

struct Kind {
  const char* folder;
  bool exact;  ///< decode(encode(x)) == x: nothing normalises, prefixes or removes
};

void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.folder; }

class Huggingface : public testing::TestWithParam<Kind> {
 protected:
  static fs::path folder() {
    return fs::path(SEDPA_SOURCE_DIR) / "tests/data/tokenizer" / GetParam().folder;
  }
  static nlohmann::json vectors() {
    std::ifstream file(folder() / "vectors.json");
    return nlohmann::json::parse(file);
  }
};

TEST_P(Huggingface, SameIdsAndTexts) {
  const Tokenizer tokenizer = Tokenizer::from_huggingface(folder().string());
  const nlohmann::json cases = vectors();
  ASSERT_GT(cases.size(), 100u);
  const bool sentencepiece = fs::exists(folder() / "tokenizer.model");
  for (const auto& entry : cases) {
    const auto text = entry["text"].get<std::string>();
    SCOPED_TRACE(text);
    // sentencepiece never reads control tokens out of a text; the other always does.
    const Ids ids = tokenizer.encode(text, false, !sentencepiece);
    EXPECT_EQ(ids, entry["ids"].get<Ids>());
    if (!sentencepiece) {
      EXPECT_EQ(tokenizer.encode(text, true, true), entry["with_special"].get<Ids>());
    }
    // To sentencepiece a "▁" in the text is a space.
    if (GetParam().exact && !(sentencepiece && text.find("▁") != std::string::npos)) {
      const Ids plain = tokenizer.encode(text, false, false);
      EXPECT_EQ(tokenizer.decode(plain), text);
    }
  }
}

TEST_P(Huggingface, SameDecodedText) {
  const Tokenizer tokenizer = Tokenizer::from_huggingface(folder().string());
  const bool metaspace = std::string_view(GetParam().folder).starts_with("metaspace");
  for (const auto& entry : vectors()) {
    const auto text = entry["text"].get<std::string>();
    // A "▁" of the text itself is a space to them.
    if (text.find("▁") != std::string::npos) continue;
    // Their decoder takes every space of the first token away, we one.
    if (metaspace && (text.find("  ") != std::string::npos || text.starts_with(' '))) {
      continue;
    }
    // Where special tokens part a text we take the prefix away behind each, the others at the
    // beginning only; unknown tokens have a text of their own in sentencepiece.
    if (text.find('<') != std::string::npos) continue;
    const auto ids = entry["ids"].get<Ids>();
    const bool parted = std::any_of(ids.begin(), ids.end(), [&](std::int32_t id) {
      return tokenizer.is_control(id) || id == tokenizer.find("word") ||
             id == tokenizer.find("Camel case");
    });
    if (parted) continue;
    EXPECT_EQ(tokenizer.decode(ids), entry["decoded"].get<std::string>()) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, Huggingface,
    testing::Values(Kind{"llama3", false}, Kind{"qwen2", false}, Kind{"tekken", true},
                    Kind{"smollm", true}, Kind{"gpt2-prefix", false}, Kind{"falcon", true},
                    Kind{"behaviors", false}, Kind{"llama2", false}, Kind{"metaspace-first", false},
                    Kind{"metaspace-always", false}, Kind{"metaspace-never", false},
                    Kind{"sentencepiece", true}, Kind{"sentencepiece-tidy", false},
                    Kind{"sentencepiece-unknown", false}),
    [](const auto& kind) {
      std::string name = kind.param.folder;
      for (char& c : name) c = c == '-' ? '_' : c;
      return name;
    });

}  // namespace
}  // namespace sedpa
