#pragma once
#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <string>

#include "sedpa/engine/engine.h"
#include "sedpa/identify/filler_text.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {

/// A tiny model and a text to hide things in. It knows nothing, but asking must work all the same.
class NeedleEngine : public testing::Test {
 protected:
  NeedleEngine() {
    const std::string test = testing::UnitTest::GetInstance()->current_test_info()->name();
    path_ = testing::TempDir() + "sedpa_needles_" + test + ".gguf";
    write_tiny_model(path_, {.layers = 3, .context = 4096});
    EngineOptions options;
    options.model = path_;
    options.threads = 2;
    engine_.emplace(options);
    engine_->load();
    std::string text;
    for (int i = 0; i < 400; ++i) {
      text += "The snow fell all night, and nobody came";
      text += i % 3 == 0 ? ".\n\n" : i % 3 == 1 ? " at all. " : " home. ";
    }
    filler_.emplace(engine_->tokenizer(), text, "snow");
  }
  ~NeedleEngine() override { std::filesystem::remove(path_); }

  [[nodiscard]] const Tokenizer& tokenizer() const { return engine_->tokenizer(); }

  std::string path_;
  std::optional<Engine> engine_;
  std::optional<FillerText> filler_;
};

}  // namespace sedpa::test
