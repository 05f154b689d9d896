// The strongest key against the plain way to find it: all products of a head's rotated queries and
// keys, as the pass has them, in double.
#include "sedpa/identify/strongest_attention.h"

#include <gtest/gtest.h>

#include <numeric>

#include "sedpa/core/error.h"
#include "sedpa/identify/head_scoring.h"
#include "tests/identify/copying_model.h"
#include "tests/support/f32_engine.h"
#include "tests/support/random_tokens.h"

namespace sedpa {
namespace {

using test::f32_engine;
using test::random_tokens;

using Tokens = std::vector<std::int32_t>;

// Rotated qkv rows [tokens, qkv_cols] of each layer.
std::vector<std::vector<float>> qkv_rows(Engine& engine, const Tokens& tokens) {
  Session session(engine, {.context = std::ssize(tokens),
                           .heads = engine.full_plan(),
                           .kv = KvDtype::f32,
                           .logit_rows = std::ssize(tokens)});
  std::vector<std::vector<float>> layers(static_cast<std::size_t>(engine.config().layers));
  session.observe([&](std::int32_t layer, Rows qkv, Rows) {
    std::vector<float>& rows = layers[static_cast<std::size_t>(layer)];
    rows.resize(static_cast<std::size_t>(qkv.rows * qkv.cols));
    engine.ops().read(qkv, rows.data());
  });
  session.evaluate(tokens, [](std::int64_t, std::span<const float>) {});
  return layers;
}

class StrongestAttentionOf : public testing::TestWithParam<const char*> {};

TEST_P(StrongestAttentionOf, IsTheLargestProductOfAll) {
  Engine engine(f32_engine(std::string(SEDPA_SOURCE_DIR) + "/tests/data/models/" + GetParam()));
  engine.load();
  const AttentionShape shape = engine.config().attention();
  const Tokens tokens = random_tokens(150, engine.config().vocab_size);
  std::vector<std::int64_t> rows(80);  // more than one pass
  std::iota(rows.begin(), rows.end(), 0);
  for (const std::int64_t row : {95, 96, 97, 149}) rows.push_back(row);
  StrongestAttention measure(engine, {.context = 150, .kv = KvDtype::f32, .chunk = 64});
  const StrongestKeys found = measure.measure(tokens, rows);
  ASSERT_EQ(found.rows, std::ssize(rows));
  ASSERT_EQ(found.query_heads, shape.query_heads);

  const auto layers = qkv_rows(engine, tokens);
  const auto cols = static_cast<std::size_t>(shape.qkv_cols());
  int clear = 0;
  for (std::int64_t r = 0; r < found.rows; ++r) {
    const auto row = static_cast<std::size_t>(rows[static_cast<std::size_t>(r)]);
    for (std::int32_t layer = 0; layer < found.layers; ++layer) {
      for (std::int32_t head = 0; head < shape.query_heads; ++head) {
        const float* all = layers[static_cast<std::size_t>(layer)].data();
        std::vector<double> products;
        for (std::size_t key = 0; key <= row; ++key) {
          const float* q = all + row * cols + head * shape.head_dim;
          const float* k =
              all + key * cols + shape.key_begin() + head / shape.group() * shape.head_dim;
          products.push_back(std::inner_product(q, q + shape.head_dim, k, 0.0));
        }
        const auto best = std::max_element(products.begin(), products.end());
        const std::int32_t position = found.position(r, layer, head);
        ASSERT_LE(position, static_cast<std::int32_t>(row));
        // Where two keys are level to rounding, either is right.
        EXPECT_NEAR(products[static_cast<std::size_t>(position)], *best, 1e-4)
            << "row " << row << " layer " << layer << " head " << head;
        clear += position == best - products.begin() ? 1 : 0;
      }
    }
  }
  EXPECT_GT(clear, 0.99 * static_cast<double>(found.positions.size()));
}

INSTANTIATE_TEST_SUITE_P(Models, StrongestAttentionOf, testing::Values("llama", "qwen3"));

TEST(StrongestAttention, OfTheHeadThatCopiesLiesOnTheNeedle) {
  const test::CopyingModel model;
  Engine engine(f32_engine(model.directory()));
  engine.load();
  Tokens tokens(300, test::CopyingModel::kPlain);
  tokens[137] = test::CopyingModel::kNeedle;
  tokens[299] = test::CopyingModel::kQuestion;
  StrongestAttention measure(engine, {.context = 300, .kv = KvDtype::f16});
  const StrongestKeys found = measure.measure(tokens, std::vector<std::int64_t>{136, 298, 299});
  EXPECT_EQ(found.position(2, 0, 1), 137);
  // A head that looks at everything alike: the first of equals.
  for (const std::int64_t row : {0, 1, 2}) EXPECT_EQ(found.position(row, 0, 0), 0);
  EXPECT_THROW((void)measure.measure(tokens, std::vector<std::int64_t>{300}), Error);
}

// Two keys, "7 8 7" told at 2 and "9 9" told at 8; one layer of three heads.
TEST(CopyShares, CountTokensOfTheKeyThatIsBeingCopied) {
  PasskeyPrompt prompt;
  prompt.tokens = {1, 1, 7, 8, 7, 1, 1, 1, 9, 9, 1, /*answers*/ 9, 9, 1, 7, 8, 7};
  prompt.keys = {{.text = "", .told = 8, .answer = 11, .count = 2},
                 {.text = "", .told = 2, .answer = 14, .count = 3}};
  StrongestKeys strongest{.rows = 5, .layers = 1, .query_heads = 3, .positions = {}, .likely = {}};
  strongest.likely = {9, 9, 7, 8, 3};  // the model gets the last one wrong
  strongest.positions = {
      8, 8,  0,   // 9: copied, copied, no
      9, 11, 2,   // 9: copied; the answer's own 9, not where it is told; another key
      4, 2,  3,   // 7: an equal token of the key, copied, not an equal token
      3, 3,  14,  // 8: copied, copied, the answer's own
      4, 4,  4,   // 7: nobody, for the model does not copy it
  };
  const std::vector<double> shares = copy_shares(prompt, strongest);
  ASSERT_EQ(shares.size(), 3u);
  EXPECT_DOUBLE_EQ(shares[0], (2.0 / 2 + 2.0 / 3) / 2);
  EXPECT_DOUBLE_EQ(shares[1], (1.0 / 2 + 2.0 / 3) / 2);
  EXPECT_DOUBLE_EQ(shares[2], 0);
}

}  // namespace
}  // namespace sedpa
