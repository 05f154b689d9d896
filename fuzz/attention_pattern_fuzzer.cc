// Both files of an attention pattern: the gates up to the first zero byte, then config.json.
#include "sedpa/format/attention_pattern.h"

#include <algorithm>

#include "fuzz/fuzzing.h"

using namespace sedpa;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz::as_text(data, size);
  const std::size_t end = std::min(text.find('\0'), size);
  fuzz::parse("fuzz/", [&] {
    const AttentionPattern pattern =
        parse_attention_pattern(text.substr(0, end), text.substr(std::min(end + 1, size)), "fuzz");
    fuzz::require(pattern.layers > 0 && pattern.kv_heads > 0 && pattern.recent_size > 0);
    fuzz::require(pattern.gates.size() == static_cast<std::size_t>(pattern.layers) *
                                              static_cast<std::size_t>(pattern.kv_heads));
    for (const double gate : pattern.gates) fuzz::require(gate >= 0 && gate <= 1);
  });
  return 0;
}
