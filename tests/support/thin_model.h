#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "sedpa/attention/kv_policy.h"
#include "sedpa/format/gguf_writer.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {

/// A tiny model (f32, head_dim a multiple of 16) whose KV heads keep some of their RoPE planes and
/// some of their value numbers, the same for keys, queries, values and output.
struct ThinModel {
  TinyModel whole;
  std::vector<HeadWidths> widths;                  // [layers, kv_heads]
  std::vector<std::vector<std::int32_t>> planes;   // [layers * kv_heads][key / 2], ascending
  std::vector<std::vector<std::int32_t>> numbers;  // [layers * kv_heads][value], ascending
};

/// Widths as given, [layers, kv_heads]; planes and numbers chosen by the seed.
[[nodiscard]] ThinModel make_thin_model(const TinyModel& whole, std::vector<HeadWidths> widths,
                                        std::uint64_t seed = 1);

/// `sedpa.thin.`: what the file says of its heads.
void add_thin_fields(GgufWriter& file, const ThinModel& model);
/// The rows and columns that are kept, as a model of thin heads.
void write_thin_model(const std::string& path, const ThinModel& model);
/// The same model with whole heads: what is not kept is zero in keys and values. To rounding it
/// computes the same as the other.
void write_zeroed_model(const std::string& path, const ThinModel& model);

}  // namespace sedpa::test
