// Configs as transformers writes them, both before and since it moved RoPE to `rope_parameters`.
#include "sedpa/format/hf_config.h"

#include <nlohmann/json.hpp>

#include "tests/format/support.h"

namespace sedpa {
namespace {

using test::expect_error;

constexpr std::string_view kLlama31 = R"({
  "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 128000,
  "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
  "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
  "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
  "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0,
  "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
  "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 128256})";

HfConfig config_of(std::string_view text) { return parse_hf_config(text, "config.json"); }

TEST(HfConfig, Llama31) {
  const HfConfig config = config_of(kLlama31);
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.num_hidden_layers, 32);
  EXPECT_EQ(config.num_attention_heads, 32);
  EXPECT_EQ(config.num_key_value_heads, 8);
  EXPECT_FALSE(config.head_dim);
  EXPECT_EQ(config.intermediate_size, 14336);
  EXPECT_EQ(config.vocab_size, 128256);
  EXPECT_EQ(config.max_position_embeddings, 131072);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 500000);
  EXPECT_EQ(config.rope_scaling.type, "llama3");
  EXPECT_EQ(config.rope_scaling.factor, 8);
  EXPECT_EQ(config.rope_scaling.low_freq_factor, 1);
  EXPECT_EQ(config.rope_scaling.high_freq_factor, 4);
  EXPECT_EQ(config.rope_scaling.original_max_position_embeddings, 8192);
  EXPECT_FALSE(config.rope_scaling.beta_fast);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.attention_bias, false);
  EXPECT_FALSE(config.sliding_window);
  EXPECT_EQ(config.hidden_act, "silu");
  EXPECT_EQ(config.bos_token_id, 128000);
  EXPECT_EQ(config.eos_token_ids, (std::vector<std::int64_t>{128001, 128008, 128009}));
}

TEST(HfConfig, Qwen25WithYarn) {
  const HfConfig config =
      config_of(R"({"architectures": ["Qwen2ForCausalLM"], "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_size": 896, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "model_type": "qwen2", "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
    "use_sliding_window": false, "vocab_size": 151936, "rope_scaling": {"factor": 4.0,
    "original_max_position_embeddings": 32768, "type": "yarn", "beta_fast": 16, "beta_slow": 2,
    "attention_factor": 1.25, "mscale": 0.5, "mscale_all_dim": 1}})");
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_EQ(config.sliding_window, 32768);
  EXPECT_EQ(config.use_sliding_window, false);
  EXPECT_EQ(config.eos_token_ids, (std::vector<std::int64_t>{151645}));
  EXPECT_EQ(config.rope_scaling.type, "yarn");
  EXPECT_EQ(config.rope_scaling.factor, 4);
  EXPECT_EQ(config.rope_scaling.beta_fast, 16);
  EXPECT_EQ(config.rope_scaling.beta_slow, 2);
  EXPECT_EQ(config.rope_scaling.attention_factor, 1.25);
  EXPECT_EQ(config.rope_scaling.mscale, 0.5);
  EXPECT_EQ(config.rope_scaling.mscale_all_dim, 1);
}

/// The smallest config, changed by a JSON merge patch (RFC 7396: null removes a field).
std::string with(std::string_view patch) {
  auto config = nlohmann::json::parse(R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 1000,
    "max_position_embeddings": 512})");
  config.merge_patch(nlohmann::json::parse(patch));
  return config.dump();
}

TEST(HfConfig, Defaults) {
  const HfConfig config = config_of(with("{}"));
  EXPECT_EQ(config.num_key_value_heads, 4);
  EXPECT_EQ(config.rope_theta, 10000);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope_scaling.type, "default");
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.mlp_bias);
  EXPECT_TRUE(config.eos_token_ids.empty());
  EXPECT_EQ(config.hidden_act, "silu");
}

TEST(HfConfig, NullIsAbsent) {
  std::string text = with("{}");
  text.insert(1, R"("sliding_window":null,"head_dim":null,"rope_scaling":null,"bos_token_id":null,
                    "num_key_value_heads":null,"eos_token_id":null,)");
  const HfConfig config = config_of(text);
  EXPECT_FALSE(config.sliding_window);
  EXPECT_FALSE(config.head_dim);
  EXPECT_EQ(config.num_key_value_heads, 4);
}

TEST(HfConfig, RopeParametersOfNewerTransformers) {
  const HfConfig config =
      config_of(with(R"({"head_dim": 32, "rope_parameters": {"rope_type": "linear",
    "factor": 2, "rope_theta": 1e6}})"));
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.rope_scaling.type, "linear");
  EXPECT_EQ(config.rope_scaling.factor, 2);
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_EQ(
      config_of(with(R"({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1})")).rope_theta,
      5e5);
  expect_error(
      [&] {
        (void)config_of(with(R"({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}})"));
      },
      {"config.json", "rope_parameters.\"full_attention\"", "not supported"});
}

TEST(HfConfig, EveryFieldIsCheckedAndNamed) {
  const auto refused = [](std::string_view patch, std::initializer_list<std::string_view> parts) {
    SCOPED_TRACE(patch);
    expect_error([&] { (void)config_of(with(patch)); }, {"config.json: "});
    expect_error([&] { (void)config_of(with(patch)); }, parts);
  };
  for (const std::string field : {"hidden_size", "num_hidden_layers", "num_attention_heads",
                                  "intermediate_size", "vocab_size", "max_position_embeddings"}) {
    refused("{\"" + field + "\": null}", {"no " + field, "integer"});
    refused("{\"" + field + "\": \"64\"}", {field, "string", "integer"});
    refused("{\"" + field + "\": 0}", {field + " is 0", "1 to 2147483647"});
    refused("{\"" + field + "\": -1}", {field + " is -1"});
    refused("{\"" + field + "\": 1.5}", {field, "integer"});
    refused("{\"" + field + "\": 2147483648}", {field + " is 2147483648"});
    refused("{\"" + field + "\": 18446744073709551615}", {field + " is 18446744073709551615"});
    refused("{\"" + field + "\": [64]}", {field, "array", "integer"});
  }
  refused(R"({"architectures": null})", {"architectures"});
  refused(R"({"architectures": []})", {"architectures"});
  refused(R"({"architectures": "LlamaForCausalLM"})", {"architectures", "list"});
  refused(R"({"architectures": [1]})", {"architectures"});
  refused(R"({"model_type": 1})", {"model_type", "string"});
  refused(R"({"num_key_value_heads": 0})", {"num_key_value_heads"});
  refused(R"({"head_dim": -4})", {"head_dim"});
  refused(R"({"rms_norm_eps": "x"})", {"rms_norm_eps", "number"});
  refused(R"({"rms_norm_eps": 0})", {"rms_norm_eps"});
  refused(R"({"rope_theta": -1})", {"rope_theta"});
  refused(R"({"rope_scaling": 4})", {"rope_scaling", "object"});
  refused(R"({"rope_scaling": {"type": 1}})", {"rope_scaling.type", "string"});
  refused(R"({"rope_scaling": {"factor": "4"}})", {"rope_scaling.factor", "number"});
  refused(R"({"rope_scaling": {"factor": 0}})", {"rope_scaling.factor"});
  refused(R"({"rope_scaling": {"original_max_position_embeddings": 0}})",
          {"rope_scaling.original_max_position_embeddings"});
  refused(R"({"tie_word_embeddings": 1})", {"tie_word_embeddings", "true or false"});
  refused(R"({"attention_bias": "no"})", {"attention_bias"});
  refused(R"({"mlp_bias": 0})", {"mlp_bias"});
  refused(R"({"sliding_window": 0})", {"sliding_window"});
  refused(R"({"use_sliding_window": 0})", {"use_sliding_window"});
  refused(R"({"hidden_act": true})", {"hidden_act"});
  refused(R"({"bos_token_id": -1})", {"bos_token_id"});
  refused(R"({"eos_token_id": "x"})", {"eos_token_id"});
  refused(R"({"eos_token_id": [1, "x"]})", {"eos_token_id"});
  refused(R"({"eos_token_id": [1, -2]})", {"eos_token_id"});
}

TEST(HfConfig, NotJson) {
  for (const std::string& text : {std::string(), std::string("{"), std::string("\xff"),
                                  std::string("{\"a\": 1e999}"), std::string("{} x")}) {
    expect_error([&] { (void)config_of(text); }, {"config.json: not valid JSON"});
  }
  expect_error([&] { (void)config_of("[1]"); }, {"config.json: the text is array"});
  expect_error([&] { (void)config_of(std::string(100000, '[')); }, {"nested deeper"});
  expect_error([&] { (void)config_of(std::string((4 << 20) + 1, ' ')); }, {"at most 4194304"});
  for (std::size_t size = 0; size < kLlama31.size(); ++size) {
    expect_error([&] { (void)config_of(kLlama31.substr(0, size)); }, {"not valid JSON"});
  }
}

TEST(HfConfig, FromADirectory) {
  const test::TempDir dir;
  expect_error([&] { (void)load_hf_config(dir.path()); }, {dir / "config.json", "No such file"});
  dir.put("config.json", kLlama31);
  const HfConfig config = load_hf_config(dir.path());
  EXPECT_EQ(config.path, dir / "config.json");
  EXPECT_EQ(config.vocab_size, 128256);
}

}  // namespace
}  // namespace sedpa
