// The JSON of a Hugging Face directory: config.json, and the index of a sharded checkpoint.
#include "sedpa/format/hf_config.h"

#include "fuzz/fuzzing.h"
#include "sedpa/format/safetensors.h"

using namespace sedpa;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz::as_text(data, size);
  fuzz::parse("fuzz: ", [&] {
    const HfConfig config = parse_hf_config(text, "fuzz");
    fuzz::require(config.hidden_size > 0 && config.vocab_size > 0 && config.rope_theta > 0);
  });
  fuzz::parse("fuzz: ", [&] {
    for (const auto& [shard, tensors] : parse_shard_index(text, "fuzz")) {
      fuzz::require(!tensors.empty() && shard.find('/') == std::string::npos);
    }
  });
  return 0;
}
