// The JSON of a Hugging Face directory: config.json, what the model makes of it, and the index of a
// sharded checkpoint.
#include "sedpa/format/hf_config.h"

#include "fuzz/fuzzing.h"
#include "sedpa/format/safetensors.h"
#include "sedpa/model/layer_shape.h"

using namespace sedpa;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz::as_text(data, size);
  fuzz::parse("fuzz: ", [&] {
    const HfConfig config = parse_hf_config(text, "fuzz");
    fuzz::require(config.hidden_size > 0 && config.vocab_size > 0 && config.rope_theta > 0);
    const ModelConfig model = config_from_huggingface(config);
    if (model.thin.empty()) return;
    for (std::int32_t layer = 0; layer < model.layers; ++layer) {
      const LayerShape shape = layer_columns(model, layer);
      fuzz::require(shape.out_cols > 0 && shape.qkv_cols <= model.attention().qkv_cols());
      for (const std::uint8_t plane : layer_planes(model, layer)) {
        fuzz::require(plane < model.head_dim / 2);
      }
    }
  });
  fuzz::parse("fuzz: ", [&] {
    for (const auto& [shard, tensors] : parse_shard_index(text, "fuzz")) {
      fuzz::require(!tensors.empty() && shard.find('/') == std::string::npos);
    }
  });
  return 0;
}
