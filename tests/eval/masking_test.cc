// Masked heads against a model in whose file their columns of the output projection are zero.
#include "sedpa/eval/masking.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <set>

#include "sedpa/core/error.h"
#include "sedpa/engine/engine.h"
#include "sedpa/format/safetensors.h"
#include "tests/support/f32_engine.h"
#include "tests/support/temp_dir.h"

namespace sedpa {
namespace {

using test::f32_engine;

const std::string kModel = std::string(SEDPA_SOURCE_DIR) + "/tests/data/models/llama";

// The same model with zeros in the columns of these heads, into the folder.
void write_zeroed_model(const MaskedHeads& masked, std::int64_t head_dim,
                        const test::TempDir& folder) {
  std::filesystem::copy_file(kModel + "/config.json", folder / "config.json");
  const SafetensorsFile file = SafetensorsFile::open(kModel + "/model.safetensors");
  SafetensorsWriter writer;
  std::vector<std::vector<std::byte>> kept;  // until they are written
  for (const TensorInfo& tensor : file.tensors()) {
    std::vector<std::byte> bytes(tensor.data.begin(), tensor.data.end());
    for (std::size_t layer = 0; layer < masked.size(); ++layer) {
      if (tensor.name != "model.layers." + std::to_string(layer) + ".self_attn.o_proj.weight") {
        continue;
      }
      for (std::int64_t row = 0; row < tensor.shape[0]; ++row) {
        for (const std::int32_t head : masked[layer]) {
          std::memset(bytes.data() + 4 * (row * tensor.shape[1] + head * head_dim), 0,
                      static_cast<std::size_t>(4 * head_dim));
        }
      }
    }
    kept.push_back(std::move(bytes));
    writer.add_tensor(tensor.name, tensor.dtype, tensor.shape, kept.back());
  }
  writer.write(folder / "model.safetensors");
}

// Logits of a prompt's last token and of three more, one at a time.
std::vector<float> some_logits(Session& session) {
  session.clear();
  std::vector<float> all;
  const std::vector<std::int32_t> prompt = {5, 60, 7, 33, 9, 2, 41, 17, 8, 50, 3};
  const auto keep = [&](std::span<const float> logits) {
    all.insert(all.end(), logits.begin(), logits.end());
  };
  keep(session.append(prompt));
  for (const std::int32_t token : {4, 44, 14}) keep(session.append(std::span(&token, 1)));
  return all;
}

TEST(MaskHeads, IsAsIfTheirColumnsWereZero) {
  Engine engine(f32_engine(kModel));
  engine.load();
  const ModelConfig& config = engine.config();
  ASSERT_GE(config.query_heads, 4);
  MaskedHeads masked(static_cast<std::size_t>(config.layers));
  masked[0] = {1, 2};
  masked[1] = {0, config.query_heads - 1};

  const test::TempDir folder;
  write_zeroed_model(masked, config.head_dim, folder);
  Engine zeroed(f32_engine(folder.path()));
  zeroed.load();
  const auto session_of = [](Engine& of) {
    return SessionOptions{.context = 32, .heads = of.full_plan(), .kv = KvDtype::f32, .chunk = 4};
  };
  Session expected(zeroed, session_of(zeroed));
  Session session(engine, session_of(engine));
  const std::vector<float> plain = some_logits(session);
  mask_heads(session, masked);
  EXPECT_EQ(some_logits(session), some_logits(expected));
  EXPECT_NE(some_logits(session), plain);
  mask_heads(session, {});
  EXPECT_EQ(some_logits(session), plain);
}

TEST(MaskHeads, RefusesHeadsThatAreNotThere) {
  Engine engine(f32_engine(kModel));
  engine.load();
  Session session(engine, {.context = 8, .heads = engine.full_plan()});
  EXPECT_THROW(mask_heads(session, {{engine.config().query_heads}}), Error);
  EXPECT_THROW(mask_heads(session, {{-1}}), Error);
  EXPECT_THROW(
      mask_heads(session, MaskedHeads(static_cast<std::size_t>(engine.config().layers + 1))),
      Error);
}

// Two layers of two KV heads with two query heads each.
AttentionPattern pattern() {
  return {.layers = 2, .kv_heads = 2, .gates = {0.1, 0.9, 0.5, 0.5}, .recent_size = 1};
}

TEST(RankedHeadsOf, KvHeadsTakeTheirQueryHeadsAlong) {
  const RankedHeads ranked(pattern(), 4, false);
  EXPECT_TRUE(ranked.of_kv_heads());
  EXPECT_EQ(ranked.size(), 4);
  EXPECT_EQ(ranked.top(1), (MaskedHeads{{2, 3}, {}}));
  EXPECT_EQ(ranked.top(2), (MaskedHeads{{2, 3}, {0, 1}}));  // of equals the first
  EXPECT_EQ(ranked.bottom(2), (MaskedHeads{{0, 1}, {2, 3}}));
  EXPECT_EQ(ranked.top(9), (MaskedHeads{{0, 1, 2, 3}, {0, 1, 2, 3}}));
  EXPECT_EQ(ranked.bottom(0), (MaskedHeads{{}, {}}));
}

TEST(RankedHeadsOf, QueryHeadsWhereTheirScoresAreKnown) {
  AttentionPattern scored = pattern();
  scored.query_heads = 4;
  scored.query_scores = {1, 2, 3, 4, 8, 7, 6, 5};
  const RankedHeads ranked(scored, 4, false);
  EXPECT_FALSE(ranked.of_kv_heads());
  EXPECT_EQ(ranked.size(), 8);
  EXPECT_EQ(ranked.top(3), (MaskedHeads{{}, {0, 1, 2}}));
  EXPECT_EQ(ranked.bottom(3), (MaskedHeads{{0, 1, 2}, {}}));
  EXPECT_TRUE(RankedHeads(scored, 4, true).of_kv_heads());
  EXPECT_NE(ranked.fingerprint(), RankedHeads(scored, 4, true).fingerprint());
  EXPECT_THROW(RankedHeads(scored, 8, false), Error);
}

TEST(RankedHeadsOf, ChanceIsSeededAndFair) {
  const RankedHeads ranked(pattern(), 4, false);
  EXPECT_EQ(ranked.random(2, 7), ranked.random(2, 7));
  int times[4] = {};
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const MaskedHeads masked = ranked.random(1, seed);
    for (int head = 0; head < 4; ++head) {
      const auto& layer = masked[static_cast<std::size_t>(head / 2)];
      times[head] += std::count(layer.begin(), layer.end(), head % 2 * 2) > 0 ? 1 : 0;
    }
  }
  // 100 each are expected, with a standard deviation of 9.
  for (const int count : times) EXPECT_NEAR(count, 100, 40);
}

}  // namespace
}  // namespace sedpa
