// Whole files with thin heads: what compress writes, what it says of it, and what it refuses.
#include "sedpa/compress/thin_heads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "sedpa/core/error.h"
#include "sedpa/format/safetensors.h"
#include "tests/compress/random_matrix.h"
#include "tests/compress/whole_models.h"
#include "tests/format/support.h"
#include "tests/support/thin_model.h"

namespace sedpa::test {
namespace {

using nlohmann::json;

const TinyModel kThreeLayers{.layers = 3,
                             .width = 64,
                             .query_heads = 6,
                             .kv_heads = 3,
                             .head_dim = 64,
                             .mlp_width = 96,
                             .dtype = Dtype::f32};

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class ThinHeadsOf : public testing::Test {
 protected:
  ThinHeadsOf() { write_tiny_model(model_, kThreeLayers); }

  static ThinRequest request(const Engine& engine, double cut) {
    return {.cut = cut, .heads = engine.full_plan()};
  }
  /// In every layer the last head streams, in the last one all do.
  static HeadPlan pattern() {
    HeadPlan plan = HeadPlan::uniform(kThreeLayers.layers, kThreeLayers.kv_heads, {});
    plan.classes[kStreaming] = HeadClass::window(2, 0, 8);
    for (LayerHeads& layer : plan.layers) layer.retrieval = 2;
    plan.layers.back().retrieval = 0;
    return plan;
  }
  CompressResult run(double cut, const std::string& output, const std::string& model,
                     CompressOptions options = {}) const {
    const Engine engine(f32_engine(model));
    options.thin = request(engine, cut);
    return compress(engine, text_, options, output, kSilent);
  }
  CompressResult run(double cut, const std::string& output) const {
    return run(cut, output, model_);
  }
  static std::size_t kv_bytes(const std::string& model) {
    const Engine engine(f32_engine(model));
    return engine.plan({.context = 32, .heads = engine.full_plan(), .kv = KvDtype::f16}).kv_bytes;
  }
  /// What was measured on the way is what the two files give.
  void expect_measured(const CompressResult& result, const std::string& model,
                       const std::string& output, const std::optional<HeadPlan>& heads) const {
    for (const auto& [probes, measured] : {std::pair{&text_.running, result.kl_running},
                                           {&text_.retrieving, result.kl_retrieving}}) {
      const Probe& probe = probes->front();
      const double found = measured_divergence(model, output, probe, heads);
      EXPECT_GT(found, 0);
      EXPECT_NEAR(measured, found, 2e-3 * found);
    }
  }

  TempDir folder_;
  std::string model_ = folder_ / "model.gguf";
  std::string output_ = folder_ / "thin.gguf";
  CalibrationText text_ = some_text();
};

TEST_F(ThinHeadsOf, MeetTheirBudgetAndSayWhatTheyAre) {
  const CompressResult result = run(0.25, output_);
  const Engine engine(f32_engine(output_));
  const ThinHeads& thin = engine.config().thin;
  ASSERT_EQ(thin.widths.size(), 9u);
  EXPECT_EQ(result.widths, thin.widths);
  std::int64_t numbers = 0;
  for (std::size_t i = 0; i < thin.widths.size(); ++i) {
    numbers += thin.widths[i].key + thin.widths[i].value;
    EXPECT_EQ(thin.widths[i], thin.widths[i / 3 * 3]) << "heads of a layer are alike";
  }
  EXPECT_EQ(result.kv_bytes_before, 2 * 9 * 128);
  EXPECT_EQ(result.kv_bytes_after, 2 * numbers);
  EXPECT_LE(static_cast<double>(kv_bytes(output_)), 0.75 * static_cast<double>(kv_bytes(model_)));
  EXPECT_EQ(kv_bytes(output_), static_cast<std::size_t>(32 * 2 * numbers));
  EXPECT_EQ(engine.weight_plan().low_rank_matrices, 0);
  EXPECT_EQ(result.parameters_after, engine.weight_plan().parameters);
  EXPECT_EQ(result.attention_after, engine.weight_plan().attention_parameters);
  EXPECT_TRUE(result.ranks.empty());
  expect_measured(result, model_, output_, {});
  EXPECT_FALSE(std::filesystem::exists(output_ + ".parts"));
  const GgufFile& file = *engine.checkpoint().gguf();
  EXPECT_EQ(file.require_string("sedpa.compress.recipe"), "thin-heads");
  EXPECT_FLOAT_EQ(static_cast<float>(*file.find_float("sedpa.compress.thin_heads")), 0.25f);
  EXPECT_EQ(*file.find_int("sedpa.compress.kv_bytes"), 2 * numbers);
}

// Only what retrieves becomes thin, while the others stream; what is said of it holds in that mode.
TEST_F(ThinHeadsOf, APatternRetrieve) {
  const Engine engine(f32_engine(model_));
  const CompressOptions options{.thin = ThinRequest{.cut = 0.5, .heads = pattern()}};
  const CompressResult result = compress(engine, text_, options, output_, kSilent);
  const auto widths = Engine(f32_engine(output_)).config().thin.widths;
  std::int64_t numbers = 0;
  for (std::size_t i = 0; i < widths.size(); ++i) {
    if (i % 3 == 2 || i >= 6) {
      EXPECT_EQ(widths[i], (HeadWidths{64, 64})) << i;
    } else {
      numbers += widths[i].key + widths[i].value;
    }
  }
  EXPECT_EQ(result.kv_bytes_before, 2 * 4 * 128);
  EXPECT_EQ(result.kv_bytes_after, 2 * numbers);
  EXPECT_LE(numbers, 4 * 64);
  expect_measured(result, model_, output_, pattern());
}

// Keys that use half of their planes and values of half the directions: at half the bytes nothing
// is lost, and the planes are found.
TEST_F(ThinHeadsOf, WhatWasThinBeforeLoseNothing) {
  const ThinModel planted =
      make_thin_model(kThreeLayers, std::vector<HeadWidths>(9, {.key = 32, .value = 32}), 3);
  const std::string model = folder_ / "zeroed.gguf";
  write_zeroed_model(model, planted);
  const CompressResult result = run(0.5, output_, model);
  // But for what the ridge of the output matrix's fit takes.
  EXPECT_LT(result.kl_running, 1e-4);
  EXPECT_LT(result.kl_retrieving, 1e-4);
  EXPECT_LT(100 * result.kl_running, run(0.5, folder_ / "other.gguf").kl_running);
  std::vector<std::int32_t> planes;
  for (const auto& of : planted.planes) planes.insert(planes.end(), of.begin(), of.end());
  EXPECT_EQ(Engine(f32_engine(output_)).config().thin.rope_planes, planes);
}

TEST_F(ThinHeadsOf, GoOnWhereTheyStopped) {
  (void)run(0.25, folder_ / "at_once.gguf");
  const Engine engine(f32_engine(model_));
  CompressOptions options;
  options.thin = request(engine, 0.25);
  for (const std::string_view stage : {"measuring", "thinning"}) {
    const auto stop = [&](const char* what, std::int64_t done, std::int64_t) {
      if (what == stage && done == 2) throw Error("stopped");
    };
    EXPECT_THROW((void)compress(engine, text_, options, output_, stop), Error);
    EXPECT_FALSE(std::filesystem::exists(output_));
  }
  EXPECT_TRUE(std::filesystem::exists(output_ + ".parts/thin-losses.json"));
  EXPECT_FALSE(std::filesystem::exists(output_ + ".parts/thin-0002.gguf"));
  EXPECT_THROW((void)run(0.3, output_), Error) << "another share";
  EXPECT_TRUE(run(0.25, output_).resumed);
  EXPECT_EQ(bytes_of(output_), bytes_of(folder_ / "at_once.gguf"));
}

TEST_F(ThinHeadsOf, GoWithFactors) {
  const CompressResult result = run(0.25, output_, model_, {.cut = 0.2});
  const Engine engine(f32_engine(output_));
  EXPECT_EQ(engine.config().thin.widths, result.widths);
  EXPECT_GT(engine.weight_plan().low_rank_matrices, 0);
  EXPECT_EQ(result.parameters_after, engine.weight_plan().parameters);
  EXPECT_EQ(result.attention_after, engine.weight_plan().attention_parameters);
  EXPECT_LE(static_cast<double>(kv_bytes(output_)), 0.75 * static_cast<double>(kv_bytes(model_)));
  expect_measured(result, model_, output_, {});
  // The same in two runs.
  const std::string thin = folder_ / "first.gguf";
  const std::string both = folder_ / "second.gguf";
  (void)run(0.25, thin);
  const Engine of_thin(f32_engine(thin));
  (void)compress(of_thin, text_, {.cut = 0.2}, both, kSilent);
  const Engine second(f32_engine(both));
  EXPECT_EQ(second.config().thin.widths, result.widths);
  EXPECT_EQ(second.weight_plan().parameters, result.parameters_after);
  EXPECT_EQ(second.checkpoint().gguf()->require_string("sedpa.compress.thin.recipe"), "thin-heads");
}

// Rows that no block of 32 divides are stored as f16, all others as Q8_0.
TEST_F(ThinHeadsOf, QuantisedModels) {
  TinyModel quantised = kThreeLayers;
  quantised.dtype = Dtype::q8_0;
  quantised.query_heads = 3;
  const std::string model = folder_ / "q8.gguf";
  write_tiny_model(model, quantised);
  (void)run(0.6, output_, model);
  const Engine engine(f32_engine(output_));
  for (std::int32_t i = 0; i < kThreeLayers.layers; ++i) {
    for (const Place& place : attention_places(engine.config(), i)) {
      const Dtype type = engine.checkpoint().find(place.role, i)->dtype;
      EXPECT_EQ(type, place.cols % 32 == 0 ? Dtype::q8_0 : Dtype::f16);
    }
  }
  (void)logits_of(output_, some_tokens(20, 1));
}

/// A Qwen2, with biases of queries, keys and values; `more` into its config.json.
void write_directory(const std::string& path, const char* type, const json& more = {}) {
  std::filesystem::create_directories(path);
  json config = {
      {"architectures", {std::string(type) == "qwen3" ? "Qwen3ForCausalLM" : "Qwen2ForCausalLM"}},
      {"model_type", type},
      {"hidden_size", 48},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"num_key_value_heads", 2},
      {"head_dim", 32},
      {"intermediate_size", 64},
      {"vocab_size", kTinyVocabulary},
      {"max_position_embeddings", 128},
      {"rms_norm_eps", 1e-6},
      {"rope_theta", 10000.0},
      {"tie_word_embeddings", true}};
  config.update(more.is_null() ? json::object() : more);
  std::ofstream(path + "/config.json") << config.dump();
  SafetensorsWriter writer;
  std::vector<std::vector<float>> kept;
  kept.reserve(100);
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape, bool norm) {
    const Matrix m = random_matrix(shape.front(), shape.size() > 1 ? shape[1] : 1, kept.size());
    std::vector<float>& numbers = kept.emplace_back();
    for (const double x : m.numbers) {
      numbers.push_back(static_cast<float>(norm ? 1 + 0.1 * x : 0.4 * x));
    }
    writer.add_tensor(name, Dtype::f32, std::move(shape), std::as_bytes(std::span(numbers)));
  };
  add("model.embed_tokens.weight", {kTinyVocabulary, 48}, false);
  add("model.norm.weight", {48}, true);
  for (int i = 0; i < 2; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    add(at + "input_layernorm.weight", {48}, true);
    add(at + "post_attention_layernorm.weight", {48}, true);
    for (const auto& [name, rows] : {std::pair{"q", 128}, {"k", 64}, {"v", 64}}) {
      add(at + "self_attn." + name + "_proj.weight", {rows, 48}, false);
      if (std::string(type) == "qwen2") add(at + "self_attn." + name + "_proj.bias", {rows}, false);
    }
    if (std::string(type) == "qwen3") {
      add(at + "self_attn.q_norm.weight", {32}, true);
      add(at + "self_attn.k_norm.weight", {32}, true);
    }
    add(at + "self_attn.o_proj.weight", {48, 128}, false);
    add(at + "mlp.gate_proj.weight", {64, 48}, false);
    add(at + "mlp.up_proj.weight", {64, 48}, false);
    add(at + "mlp.down_proj.weight", {48, 64}, false);
  }
  writer.write(path + "/model.safetensors");
}

TEST_F(ThinHeadsOf, DirectoriesStayDirectories) {
  const std::string model = folder_ / "qwen2";
  const std::string output = folder_ / "thin";
  write_directory(model, "qwen2");
  const CompressResult result = run(0.4, output, model);
  const Engine engine(f32_engine(output));
  EXPECT_EQ(engine.config().thin.widths, result.widths);
  EXPECT_EQ(result.parameters_after, engine.weight_plan().parameters);
  expect_measured(result, model, output, {});
  std::ifstream file(output + "/config.json");
  const json config = json::parse(file);
  EXPECT_EQ(config["sedpa_compress"]["recipe"], "thin-heads");
  EXPECT_EQ(config["sedpa_thin_heads"]["key_widths"].size(), 4u);
}

// Queries and keys that are normed as a whole stay whole.
TEST_F(ThinHeadsOf, NormedKeysStayWhole) {
  const std::string model = folder_ / "qwen3";
  const std::string output = folder_ / "thin";
  write_directory(model, "qwen3");
  (void)run(0.25, output, model);
  const Engine engine(f32_engine(output));
  for (const HeadWidths& widths : engine.config().thin.widths) {
    EXPECT_EQ(widths, (HeadWidths{32, 16}));
  }
}

TEST_F(ThinHeadsOf, NameWhatCannotBe) {
  const auto refused = [&](double cut, const std::string& model, std::string_view part) {
    try {
      (void)run(cut, folder_ / "refused", model);
      FAIL() << part;
    } catch (const Error& error) {
      const std::string_view text = error.what();
      EXPECT_NE(text.find(part), std::string_view::npos) << text;
      EXPECT_EQ(text.find('\n'), std::string_view::npos);
    }
  };
  refused(0.8, model_, "75% of the bytes can go at most");
  (void)run(0.25, output_);
  refused(0.25, output_, "has thin heads already");
  const std::string narrow = folder_ / "narrow.gguf";
  write_tiny_model(narrow, {.width = 64, .query_heads = 4, .kv_heads = 4, .head_dim = 16});
  refused(0.25, narrow, "heads of 16 numbers");
  const std::string uneven = folder_ / "uneven.gguf";
  write_tiny_model(uneven, {.width = 64, .query_heads = 2, .kv_heads = 2, .head_dim = 40});
  refused(0.25, uneven, "heads of 40 numbers");
  const std::string normed = folder_ / "qwen3";
  write_directory(normed, "qwen3");
  refused(0.3, normed, "25% of the bytes can go at most, for this model's keys are to stay whole");
  const Engine engine(f32_engine(model_));
  HeadPlan plan = pattern();
  for (LayerHeads& layer : plan.layers) layer.retrieval = 0;
  try {
    (void)compress(engine, text_, {.thin = ThinRequest{.cut = 0.25, .heads = plan}},
                   folder_ / "none", kSilent);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("all of the pattern's stream"), std::string::npos);
  }
}

}  // namespace
}  // namespace sedpa::test
