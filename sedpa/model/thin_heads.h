#pragma once
// Thin heads as a file tells of them (docs/formats.md).
#include <cstdint>
#include <span>
#include <string>

#include "sedpa/model/config.h"

namespace sedpa {

/// The numbers of a file, not yet checked.
struct ThinHeadFields {
  std::string prefix;                          // of their names, "sedpa.thin."
  std::span<const std::int64_t> key_widths;    // [layers, kv_heads]
  std::span<const std::int64_t> value_widths;  // [layers, kv_heads]
  std::span<const std::int64_t> rope_planes;   // [sum of key_widths / 2]
};

/// What they say of a model whose other fields are known; empty when no head is thin. Throws Error
/// naming the file, the field, what was found and what was expected.
[[nodiscard]] ThinHeads read_thin_heads(const ModelConfig& config, const ThinHeadFields& fields);

/// Throws Error when the model has thin heads: `what` needs heads of one size.
void refuse_thin_heads(const ModelConfig& config, const std::string& what);

}  // namespace sedpa
