#pragma once
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "sedpa/engine/engine.h"
#include "sedpa/identify/filler_text.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {

/// A tiny model and a text to hide things in. It knows nothing, but asking must work all the same.
class NeedleEngine : public testing::Test {
 protected:
  NeedleEngine() {
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

  [[nodiscard]] const Tokenizer& tokenizer() const { return engine_->tokenizer(); }

  const TempDir folder_;
  const std::string path_ = folder_ / "model.gguf";
  std::optional<Engine> engine_;
  std::optional<FillerText> filler_;
};

}  // namespace sedpa::test
