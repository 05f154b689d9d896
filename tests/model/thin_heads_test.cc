// What files say of thin heads: each field checked, in both kinds of files.
#include "sedpa/model/thin_heads.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sedpa/model/layer_shape.h"
#include "tests/format/support.h"
#include "tests/support/thin_model.h"

namespace sedpa {
namespace {

using test::expect_error;

// Two layers of two KV heads of 64 numbers.
ModelConfig config() {
  ModelConfig c;
  c.path = "m.gguf";
  c.architecture = "llama";
  c.layers = 2;
  c.width = 32;
  c.query_heads = 4;
  c.kv_heads = 2;
  c.head_dim = 64;
  c.rope_dim = 64;
  return c;
}

struct Fields {
  std::vector<std::int64_t> keys = {64, 32, 64, 16};
  std::vector<std::int64_t> values = {48, 64, 16, 32};
  std::vector<std::int64_t> planes;

  Fields() {
    for (const std::int64_t width : keys) {
      for (std::int64_t i = 0; i < width / 2; ++i) planes.push_back(i * 64 / width);
    }
  }
  [[nodiscard]] ThinHeads read(const ModelConfig& c) const {
    return read_thin_heads(c, {.prefix = "sedpa.thin.",
                               .key_widths = keys,
                               .value_widths = values,
                               .rope_planes = planes});
  }
};

TEST(ThinHeads, BecomeTheColumnsOfLayers) {
  ModelConfig c = config();
  c.thin = Fields().read(c);
  const LayerShape shape = layer_columns(c, 0);
  ASSERT_EQ(shape.heads.size(), 2u);
  EXPECT_EQ(shape.heads[0],
            (HeadColumns{
                .query = 0, .key = 192, .value = 288, .out = 0, .key_dim = 64, .value_dim = 48}));
  EXPECT_EQ(
      shape.heads[1],
      (HeadColumns{
          .query = 128, .key = 256, .value = 336, .out = 96, .key_dim = 32, .value_dim = 64}));
  EXPECT_EQ(shape.key_begin, 192);
  EXPECT_EQ(shape.value_begin, 288);
  EXPECT_EQ(shape.qkv_cols, 400);
  EXPECT_EQ(shape.out_cols, 224);
  const std::vector<std::uint8_t> planes = layer_planes(c, 1);
  ASSERT_EQ(planes.size(), 64u);
  EXPECT_EQ(planes[31], 31);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(planes[static_cast<std::size_t>(32 + i)], 4 * i);
  EXPECT_EQ(layer_planes_bytes(c, 1), 64u);
}

TEST(ThinHeads, OfWholeWidthsAreNone) {
  Fields f;
  f.keys = f.values = {64, 64, 64, 64};
  f.planes.clear();
  for (int i = 0; i < 128; ++i) f.planes.push_back(i % 32);
  EXPECT_TRUE(f.read(config()).empty());
  // A layer of whole keys has plain RoPE, whatever its values.
  f.values = {16, 64, 64, 64};
  ModelConfig c = config();
  c.thin = f.read(c);
  EXPECT_FALSE(c.thin.empty());
  EXPECT_TRUE(layer_planes(c, 0).empty());
  EXPECT_TRUE(layer_columns(c, 1).is_plain(c.attention()));
}

TEST(ThinHeads, EveryFieldIsChecked) {
  const auto refused = [](const std::function<void(Fields&, ModelConfig&)>& change,
                          std::initializer_list<std::string_view> parts) {
    Fields fields;
    ModelConfig c = config();
    change(fields, c);
    expect_error([&] { (void)fields.read(c); }, {"m.gguf: "});
    expect_error([&] { (void)fields.read(c); }, parts);
  };
  refused([](Fields& f, ModelConfig&) { f.keys.pop_back(); },
          {"sedpa.thin.key_widths has 3 numbers", "expected 4", "2 layers x 2 KV heads"});
  refused([](Fields& f, ModelConfig&) { f.values.push_back(64); },
          {"sedpa.thin.value_widths has 5 numbers", "expected 4"});
  refused([](Fields& f, ModelConfig&) { f.values.clear(); }, {"value_widths has 0 numbers"});
  for (const std::int64_t width : {std::int64_t{0}, std::int64_t{-16}, std::int64_t{8},
                                   std::int64_t{40}, std::int64_t{80}, std::int64_t{1} << 62}) {
    refused(
        [&](Fields& f, ModelConfig&) { f.keys[3] = width; },
        {"key_widths of layer 1, KV head 1 is " + std::to_string(width), "multiple of 16", "64"});
    refused([&](Fields& f, ModelConfig&) { f.values[1] = width; },
            {"value_widths of layer 0, KV head 1 is " + std::to_string(width)});
  }
  refused([](Fields& f, ModelConfig&) { f.planes.pop_back(); },
          {"rope_planes has 87 numbers", "expected 88"});
  refused([](Fields& f, ModelConfig&) { f.planes.push_back(31); }, {"rope_planes has 89 numbers"});
  refused([](Fields& f, ModelConfig&) { f.planes.clear(); }, {"rope_planes has 0 numbers"});
  refused([](Fields& f, ModelConfig&) { f.planes[47] = 32; },
          {"rope_planes of layer 0, KV head 1 has 32", "0 to 31"});
  refused([](Fields& f, ModelConfig&) { f.planes[0] = -1; }, {"KV head 0 has -1"});
  refused([](Fields& f, ModelConfig&) { f.planes[33] = f.planes[32]; },
          {"layer 0, KV head 1 has 0", "ascending"});
  refused([](Fields& f, ModelConfig&) { f.planes[87] = std::int64_t{1} << 40; },
          {"layer 1, KV head 1 has 1099511627776"});
  // Planes of another head's count: in all as many as there should be.
  refused([](Fields& f, ModelConfig&) { std::swap(f.keys[0], f.keys[1]); },
          {"layer 0, KV head 1 has"});

  refused([](Fields&, ModelConfig& c) { c.query_key_norm = true; }, {"key_widths", "norms"});
  refused([](Fields&, ModelConfig& c) { c.rope_dim = 32; }, {"key_widths", "rotates only 32"});
  const auto wide = [](Fields& f, ModelConfig& c) {
    c.head_dim = c.rope_dim = 1024;
    f.keys = {1024, 32, 16, 16};
    f.planes.clear();
    for (const std::int64_t width : f.keys) {
      for (std::int64_t i = 0; i < width / 2; ++i) f.planes.push_back(i);
    }
  };
  refused(wide, {"head size 1024", "at most 512"});
}

TEST(ThinHeads, NarrowValuesNeedNothingOfRope) {
  Fields f;
  f.keys = {64, 64, 64, 64};
  f.planes.clear();
  for (int i = 0; i < 128; ++i) f.planes.push_back(i % 32);
  ModelConfig c = config();
  c.query_key_norm = true;
  c.rope_dim = 32;
  EXPECT_FALSE(f.read(c).empty());
}

TEST(ThinHeads, OfAGguf) {
  const test::ThinModel model = test::make_thin_model(
      {.layers = 1, .head_dim = 32}, {{.key = 16, .value = 32}, {.key = 32, .value = 16}});
  const auto parse = [&](const std::function<void(GgufWriter&)>& add) {
    GgufWriter file;
    test::add_tiny_config(file, model.whole);
    test::add_tiny_tensors(file, model.whole);
    add(file);
    return config_from_gguf(GgufFile::parse(file.bytes(), "m.gguf"));
  };
  const ModelConfig c = parse([&](GgufWriter& file) { test::add_thin_fields(file, model); });
  EXPECT_EQ(c.thin.widths, model.widths);
  EXPECT_EQ(c.thin.rope_planes.size(), 24u);
  EXPECT_TRUE(parse([](GgufWriter&) {}).thin.empty());
  // One alone, or of another type.
  expect_error([&] { parse([](GgufWriter& f) {
                       f.add_i32s("sedpa.thin.key_widths", {16, 32});
                     }); },
               {"m.gguf", "sedpa.thin.value_widths"});
  expect_error([&] { parse([](GgufWriter& f) { f.add_i32s("sedpa.thin.rope_planes", {1}); }); },
               {"m.gguf", "sedpa.thin.key_widths"});
  expect_error(
      [&] {
        parse([](GgufWriter& f) {
          f.add_f32s("sedpa.thin.key_widths", {16, 32});
          f.add_i32s("sedpa.thin.value_widths", {16, 32});
          f.add_i32s("sedpa.thin.rope_planes", {});
        });
      },
      {"m.gguf", "sedpa.thin.key_widths", "integer"});
}

TEST(ThinHeads, OfAHuggingFaceDirectory) {
  const auto parse = [](const std::string& thin) {
    const std::string text = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64,
      "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
      "intermediate_size": 32, "vocab_size": 8, "max_position_embeddings": 64,
      "sedpa_thin_heads": )" +
                             thin + "}";
    return config_from_huggingface(parse_hf_config(text, "config.json"));
  };
  const ModelConfig c = parse(R"({"key_widths": [16], "value_widths": [32],
                                  "rope_planes": [0, 1, 2, 3, 5, 8, 13, 15]})");
  EXPECT_EQ(c.thin.widths, (std::vector<HeadWidths>{{.key = 16, .value = 32}}));
  EXPECT_EQ(c.thin.rope_planes, (std::vector<std::int32_t>{0, 1, 2, 3, 5, 8, 13, 15}));
  EXPECT_TRUE(parse("null").thin.empty());
  expect_error([&] { parse("[]"); }, {"config.json: sedpa_thin_heads is array", "object"});
  expect_error([&] { parse("{}"); }, {"config.json: no sedpa_thin_heads.key_widths"});
  expect_error([&] { parse(R"({"key_widths": 16})"); },
               {"sedpa_thin_heads.key_widths", "number", "list of integers"});
  expect_error([&] { parse(R"({"key_widths": [1.5]})"); },
               {"sedpa_thin_heads.key_widths", "integer"});
  expect_error([&] { parse(R"({"key_widths": [16], "value_widths": [32], "rope_planes": [-1]})"); },
               {"sedpa_thin_heads.rope_planes is -1"});
  expect_error(
      [&] {
        parse(R"({"key_widths": [16, 16], "value_widths": [32],
                               "rope_planes": []})");
      },
      {"config.json: sedpa_thin_heads.key_widths has 2 numbers", "expected 1"});
}

}  // namespace
}  // namespace sedpa
