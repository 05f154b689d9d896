#include "sedpa/format/gguf_types.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace sedpa {
namespace {

constexpr std::array<std::string_view, 13> kTypeNames = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

struct GgmlType {
  std::uint32_t number;
  std::string_view name;
  std::optional<Dtype> dtype;  // empty: known by name only
};

// The numbers of enum ggml_type. 4, 5, 31-33 and 36-38 are retired.
constexpr std::array<GgmlType, 35> kGgmlTypes = {{
    {0, "f32", Dtype::f32},
    {1, "f16", Dtype::f16},
    {2, "q4_0", Dtype::q4_0},
    {3, "q4_1", Dtype::q4_1},
    {6, "q5_0", Dtype::q5_0},
    {7, "q5_1", Dtype::q5_1},
    {8, "q8_0", Dtype::q8_0},
    {9, "q8_1", {}},
    {10, "q2_k", {}},
    {11, "q3_k", {}},
    {12, "q4_k", Dtype::q4_k},
    {13, "q5_k", Dtype::q5_k},
    {14, "q6_k", Dtype::q6_k},
    {15, "q8_k", {}},
    {16, "iq2_xxs", {}},
    {17, "iq2_xs", {}},
    {18, "iq3_xxs", {}},
    {19, "iq1_s", {}},
    {20, "iq4_nl", Dtype::iq4_nl},
    {21, "iq3_s", {}},
    {22, "iq2_s", {}},
    {23, "iq4_xs", {}},
    {24, "i8", {}},
    {25, "i16", {}},
    {26, "i32", {}},
    {27, "i64", {}},
    {28, "f64", {}},
    {29, "iq1_m", {}},
    {30, "bf16", Dtype::bf16},
    {34, "tq1_0", {}},
    {35, "tq2_0", {}},
    {39, "mxfp4", {}},
    {40, "nvfp4", {}},
    {4, "q4_2", {}},
    {5, "q4_3", {}},
}};

}  // namespace

std::optional<std::string_view> gguf_type_name(std::uint32_t type) {
  if (type >= kTypeNames.size()) return std::nullopt;
  return kTypeNames[type];
}

std::uint64_t gguf_min_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
    case GgufType::string:  // its length
      return 8;
    case GgufType::array:  // element type and count
      return 12;
  }
  return 1;
}

std::uint32_t ggml_type_of(Dtype dtype) {
  return std::ranges::find(kGgmlTypes, std::optional(dtype), &GgmlType::dtype)->number;
}

std::optional<Dtype> dtype_of_ggml(std::uint32_t type) {
  const auto* const found = std::ranges::find(kGgmlTypes, type, &GgmlType::number);
  return found == kGgmlTypes.end() ? std::nullopt : found->dtype;
}

std::string ggml_type_text(std::uint32_t type) {
  const auto* const found = std::ranges::find(kGgmlTypes, type, &GgmlType::number);
  if (found == kGgmlTypes.end()) return fmt::format("{}", type);
  return fmt::format("{} ({})", type, found->name);
}

std::string supported_dtypes_text() {
  std::string text;
  for (int i = 0; i < kDtypeCount; ++i) {
    if (i > 0) text += ", ";
    text += name(static_cast<Dtype>(i));
  }
  return text;
}

}  // namespace sedpa
