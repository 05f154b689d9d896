// Models of thin heads, whole: against the same model with whole heads, whose dropped numbers are
// zeros. That is an outside truth: it runs on what plain models run on.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/plan_heads.h"
#include "sedpa/engine/session_file.h"
#include "tests/format/support.h"
#include "tests/support/random_tokens.h"
#include "tests/support/thin_model.h"

namespace sedpa {
namespace {

using test::expect_error;
using test::kTinyVocabulary;
using test::random_tokens;

constexpr std::int32_t kLayers = 4;
constexpr std::int32_t kKvHeads = 3;

test::TinyModel whole_model(const std::string& architecture) {
  return {.layers = kLayers,
          .width = 48,
          .query_heads = 6,
          .kv_heads = kKvHeads,
          .head_dim = 64,
          .architecture = architecture};
}

// Layers whose heads differ, are equal in a class, are thin in keys or values alone, or whole.
std::vector<HeadWidths> mixed_widths() {
  return {{64, 16},      {16, 48}, {32, 64}, /**/ {48, 32}, {48, 32}, {48, 32},
          /**/ {64, 64}, {64, 64}, {64, 64}, /**/ {16, 64}, {64, 32}, {64, 64}};
}

std::unique_ptr<Engine> load(const std::string& path) {
  auto engine = std::make_unique<Engine>(
      EngineOptions{.model = path, .device = "cpu", .threads = 2, .compute = Compute::f32});
  engine->load();
  return engine;
}

// Logits of all tokens, [tokens, vocabulary], read in chunks.
std::vector<float> logits(Engine& engine, const HeadPlan& heads, std::int64_t chunk, KvDtype kv,
                          std::int64_t tokens = 50) {
  Session session(
      engine, {.context = tokens, .heads = heads, .kv = kv, .chunk = chunk, .logit_rows = chunk});
  std::vector<float> all;
  session.evaluate(random_tokens(tokens, kTinyVocabulary),
                   [&](std::int64_t, std::span<const float> rows) {
                     all.insert(all.end(), rows.begin(), rows.end());
                   });
  return all;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(double{a[i]} - double{b[i]});
    if (!(difference <= largest)) largest = std::isnan(difference) ? INFINITY : difference;
  }
  return largest;
}

class ThinModels : public testing::TestWithParam<std::string> {
 protected:
  ThinModels() {
    test::write_thin_model(thin_path_, model_);
    test::write_zeroed_model(zeroed_path_, model_);
    thin_ = load(thin_path_);
    zeroed_ = load(zeroed_path_);
  }

  // Full attention; some heads stream, in every layer another number; no head keeps everything.
  std::vector<HeadPlan> plans() {
    HeadPlan some = thin_->full_plan();
    some.classes[kStreaming] = HeadClass::window(2, 0, 9);
    for (std::int32_t i = 0; i < kLayers; ++i) {
      LayerHeads& layer = some.layers[static_cast<std::size_t>(i)];
      layer.order = i % 2 == 0 ? std::vector{1, 0, 2} : std::vector{2, 0, 1};
      layer.retrieval = (i + 1) % (kKvHeads + 1);
      std::sort(layer.order.begin(), layer.order.begin() + layer.retrieval);
      std::sort(layer.order.begin() + layer.retrieval, layer.order.end());
    }
    HeadPlan bounded = some;
    bounded.classes[kRetrieval] = HeadClass::window(2, 5, 11);
    return {thin_->full_plan(), some, bounded};
  }

  test::TempDir folder_;
  std::string thin_path_ = folder_ / "thin.gguf";
  std::string zeroed_path_ = folder_ / "zeroed.gguf";
  test::ThinModel model_ = test::make_thin_model(whole_model(GetParam()), mixed_widths());
  std::unique_ptr<Engine> thin_;
  std::unique_ptr<Engine> zeroed_;
};

// With the cache in f32: rounded to fewer bits, a key next to a boundary may fall to either side.
TEST_P(ThinModels, AreTheWholeModelWithZeros) {
  for (const HeadPlan& heads : plans()) {
    const std::vector<float> expected = logits(*zeroed_, heads, 50, KvDtype::f32);
    const double size =
        std::abs(*std::max_element(expected.begin(), expected.end(),
                                   [](float a, float b) { return std::abs(a) < std::abs(b); }));
    for (const std::int64_t chunk : {50, 7, 1}) {
      EXPECT_LE(largest_difference(logits(*thin_, heads, chunk, KvDtype::f32), expected),
                2e-5 * size)
          << "chunks of " << chunk << ", " << describe(heads);
    }
  }
}

TEST_P(ThinModels, TakeTheBytesThatTheyPlan) {
  for (const HeadPlan& heads : plans()) {
    for (const KvDtype kv : {KvDtype::f32, KvDtype::q8}) {
      const SessionOptions options{.context = 100, .heads = heads, .kv = kv, .chunk = 16};
      const Session session(*thin_, options);
      EXPECT_EQ(thin_->plan(options).kv_bytes, session.kv_bytes());
      EXPECT_LT(session.kv_bytes(), Session(*zeroed_, options).kv_bytes());
      if (kv != KvDtype::f32) continue;
      // Rows of a class are as wide as its widest head.
      std::size_t bytes = 0;
      for (std::int32_t i = 0; i < kLayers; ++i) {
        const LayerHeads& layer = heads.layers[static_cast<std::size_t>(i)];
        for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
          std::int32_t key = 0;
          std::int32_t value = 0;
          for (const std::int32_t head : layer.heads(head_class)) {
            const HeadWidths& widths = model_.widths[static_cast<std::size_t>(i * kKvHeads + head)];
            key = std::max(key, widths.key);
            value = std::max(value, widths.value);
          }
          bytes +=
              static_cast<std::size_t>(layer.count(head_class) *
                                       heads.classes[head_class].capacity(100) * (key + value) * 4);
        }
      }
      EXPECT_EQ(session.kv_bytes(), bytes);
    }
  }
  EXPECT_EQ(thin_->model().weight_bytes, thin_->weight_plan().weight_bytes);
  EXPECT_LT(thin_->model().parameters, zeroed_->model().parameters);
}

TEST_P(ThinModels, FillTheirCacheForTiming) {
  Session session(*thin_, {.context = 60, .heads = plans()[1], .kv = KvDtype::q4, .chunk = 8});
  session.fill(50);
  for (const float x : session.append(random_tokens(3, kTinyVocabulary)))
    ASSERT_TRUE(std::isfinite(x));
}

TEST_P(ThinModels, GoOnFromASessionFile) {
  const std::string file = folder_ / "a.session";
  for (const HeadPlan& heads : plans()) {
    for (const KvDtype kv : {KvDtype::f32, KvDtype::q4}) {
      const SessionOptions options{.context = 80, .heads = heads, .kv = kv, .chunk = 5};
      Session first(*thin_, options);
      first.append(random_tokens(40, kTinyVocabulary));
      save_session(file, first);
      const auto more = random_tokens(7, kTinyVocabulary);
      const auto next = first.append(more);
      const std::vector<float> expected(next.begin(), next.end());
      Session second(*thin_, options);
      SessionFile::open(file).restore(second);
      const auto actual = second.append(more);
      EXPECT_EQ(std::vector<float>(actual.begin(), actual.end()), expected);
    }
  }
  // Heads of other widths, or of other planes, are another model.
  const SessionFile saved = SessionFile::open(file);
  const auto refused = [&](const test::ThinModel& other) {
    const std::string path = folder_ / "other.gguf";
    test::write_thin_model(path, other);
    const auto engine = load(path);
    const SessionOptions options{.context = 80, .heads = plans()[2], .kv = KvDtype::q4, .chunk = 5};
    Session session(*engine, options);
    expect_error([&] { saved.restore(session); }, {file, "another model"});
  };
  test::ThinModel other = model_;
  const auto narrow = std::find_if(other.planes.begin(), other.planes.end(),
                                   [](const auto& planes) { return planes.size() == 8; });
  narrow->back() = narrow->back() == 31 ? 30 : 31;
  if (!std::is_sorted(narrow->begin(), narrow->end())) GTEST_FAIL();
  refused(other);
  std::vector<HeadWidths> widths = mixed_widths();
  widths[0].value = 32;
  refused(test::make_thin_model(model_.whole, widths));
}

TEST_P(ThinModels, RefuseAdaptersOfTheirProjections) {
  const std::string adapter = folder_ / "lora.gguf";
  test::write_tiny_adapter(adapter, model_.whole);
  expect_error(
      [&] {
        Engine({.model = thin_path_, .adapters = {LoraRequest::parse(adapter)}, .device = "cpu"});
      },
      {adapter, "attn_q", thin_path_, "thin"});
}

INSTANTIATE_TEST_SUITE_P(BothStyles, ThinModels, testing::Values("llama", "qwen2"),
                         [](const auto& test) { return test.param; });

// A file that says of every head that it is whole is a plain model, bit for bit.
TEST(WholeHeads, AreAPlainModel) {
  const test::TempDir folder;
  const test::TinyModel whole = whole_model("llama");
  const std::string plain_path = folder / "plain.gguf";
  const std::string thin_path = folder / "thin.gguf";
  test::write_tiny_model(plain_path, whole);
  test::write_thin_model(
      thin_path, test::make_thin_model(
                     whole, std::vector<HeadWidths>(kLayers * kKvHeads, {.key = 64, .value = 64})));
  const auto plain = load(plain_path);
  const auto thin = load(thin_path);
  for (const KvDtype kv : {KvDtype::f16, KvDtype::q8}) {
    for (const std::int64_t chunk : {50, 1}) {
      EXPECT_EQ(logits(*thin, thin->full_plan(), chunk, kv),
                logits(*plain, plain->full_plan(), chunk, kv));
    }
  }
  EXPECT_EQ(thin->model().weight_bytes, plain->model().weight_bytes);
}

}  // namespace
}  // namespace sedpa
