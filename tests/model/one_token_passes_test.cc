// Passes of one token, which a backend may record and replay: of sessions in turns, and seen by an
// observer that comes later.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/random_tokens.h"
#include "tests/support/shape_engine.h"

namespace sedpa {
namespace {

class OneTokenPasses : public testing::TestWithParam<std::string> {
 protected:
  static constexpr int kTokens = 24;

  Session session() {
    return Session(*engine_, test::streaming_options(*engine_, kTokens, /*chunk=*/4));
  }
  /// Logits behind tokens [begin, end) of one of the texts, each read alone.
  std::vector<float> read(Session& session, int which, int begin, int end) const {
    for (int i = begin; i < end; ++i) {
      session.feed(std::span(texts_[which]).subspan(static_cast<std::size_t>(i), 1));
    }
    const auto logits = session.logits();
    return {logits.begin(), logits.end()};
  }

  std::unique_ptr<Engine> engine_ = test::shape_engine("smollm2-135m-layer2:bf16", GetParam());
  std::vector<std::int32_t> texts_[2] = {test::random_tokens(kTokens, test::kShapeVocabulary, 1),
                                         test::random_tokens(kTokens, test::kShapeVocabulary, 2)};
};

TEST_P(OneTokenPasses, OfSessionsInTurnsAreEachItsOwn) {
  std::vector<float> alone[2];
  for (int which = 0; which < 2; ++which) {
    Session one = session();
    alone[which] = read(one, which, 0, kTokens);
  }
  ASSERT_NE(alone[0], alone[1]);
  Session first = session();
  Session second = session();
  std::vector<float> in_turns[2];
  for (int i = 0; i < kTokens; ++i) {
    in_turns[0] = read(first, 0, i, i + 1);
    in_turns[1] = read(second, 1, i, i + 1);
  }
  EXPECT_EQ(in_turns[0], alone[0]);
  EXPECT_EQ(in_turns[1], alone[1]);
}

TEST_P(OneTokenPasses, AreSeenByWhoComesLater) {
  Session unseen = session();
  const std::vector<float> expected = read(unseen, 0, 0, kTokens);
  Session seen = session();
  read(seen, 0, 0, 8);
  std::vector<std::int32_t> layers;
  seen.observe([&](std::int32_t layer, Rows, Rows) { layers.push_back(layer); });
  read(seen, 0, 8, 11);
  EXPECT_EQ(layers, (std::vector<std::int32_t>{0, 1, 0, 1, 0, 1}));
  seen.observe({});
  const std::vector<float> logits = read(seen, 0, 11, kTokens);
  EXPECT_EQ(layers.size(), 6u);
  // Operations that are seen are not joined: on a GPU their sums are rounded elsewhere.
  EXPECT_LE(test::relative_error(logits, expected), 0.02);
}

INSTANTIATE_TEST_SUITE_P(Devices, OneTokenPasses, testing::ValuesIn(test::devices()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace sedpa
