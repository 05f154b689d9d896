// Passes of one token, which a backend may record and replay: of sessions in turns, and seen by an
// observer that comes later.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/session.h"
#include "sedpa/model/random_model.h"
#include "tests/support/devices.h"

namespace sedpa {
namespace {

class OneTokenPasses : public testing::TestWithParam<std::string> {
 protected:
  static constexpr std::int32_t kIds = 301;
  static constexpr int kTokens = 24;

  OneTokenPasses() {
    NamedShape shape = parse_shape("smollm2-135m-layer2:bf16");
    shape.config.vocab_size = kIds;
    EngineOptions options;
    options.device = GetParam();
    options.threads = 2;
    engine_ =
        std::make_unique<Engine>(options, shape.config, std::make_unique<RandomWeights>(shape));
    engine_->load();
  }

  Session session() {
    SessionOptions options;
    options.context = kTokens;
    options.heads = engine_->full_plan();
    options.heads.classes[kStreaming] = HeadClass::window(2, 0, 9);
    for (LayerHeads& layer : options.heads.layers) layer.retrieval = 2;
    options.kv = KvDtype::f16;
    options.chunk = 4;
    return Session(*engine_, options);
  }
  static std::int32_t token(int which, int i) { return (i * i * 7 + 3 * i + 97 * which) % kIds; }
  static std::vector<float> read(Session& session, int which, int begin, int end) {
    for (int i = begin; i < end; ++i) {
      const std::int32_t id = token(which, i);
      session.feed(std::span(&id, 1));
    }
    const auto logits = session.logits();
    return {logits.begin(), logits.end()};
  }

  std::unique_ptr<Engine> engine_;
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
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(double{logits[i]} - double{expected[i]}, 2);
    size += std::pow(double{expected[i]}, 2);
  }
  EXPECT_LE(std::sqrt(error / size), 0.02);
}

INSTANTIATE_TEST_SUITE_P(Devices, OneTokenPasses, testing::ValuesIn(test::devices()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace sedpa
