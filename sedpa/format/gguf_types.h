#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "sedpa/core/dtype.h"
#include "sedpa/format/gguf.h"

namespace sedpa {

inline constexpr std::uint32_t kGgufDefaultAlignment = 32;
inline constexpr int kGgufMaxRank = 4;
inline constexpr std::string_view kGgufAlignmentKey = "general.alignment";

/// "u32", "string", ...; nothing for a number that is no type.
[[nodiscard]] std::optional<std::string_view> gguf_type_name(std::uint32_t type);
/// The fewest bytes that a value can take in a file.
[[nodiscard]] std::uint64_t gguf_min_bytes(GgufType type);

/// ggml's number of an element type, as GGUF stores it, and back.
[[nodiscard]] std::uint32_t ggml_type_of(Dtype dtype);
[[nodiscard]] std::optional<Dtype> dtype_of_ggml(std::uint32_t type);
/// "29 (iq1_m)" for messages; the number alone when the type is not known.
[[nodiscard]] std::string ggml_type_text(std::uint32_t type);
/// "f32, f16, ...": every type that is read here.
[[nodiscard]] std::string supported_dtypes_text();

}  // namespace sedpa
