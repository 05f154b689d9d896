#pragma once
// The online softmax (Milakov and Gimelshein, arXiv 1805.02867): attention over a set of keys is
// kept as (max, sum, out) with
//   max = largest score, sum = sum of 2^(score - max), out = sum of 2^(score - max) value,
// scores in base 2 (natural scores times log2 e). Results over disjoint sets of keys merge, in any
// order up to rounding, and out / sum is the attention over all of them.
#include <cmath>
#include <cstdint>

namespace sedpa {

/// Part of a row's attention. `out` [dim].
struct SoftmaxPart {
  float max = 0;
  float sum = 0;
  const float* out = nullptr;
};

/// out [dim] = attention over the union of the parts' keys, merged in order. At least one part has
/// seen a key: its sum is >= 1. `part(i)` gives the i-th SoftmaxPart.
template <class Part>
void merge_softmax_parts(std::int64_t parts, std::int64_t dim, const Part& part, float* out) {
  float max = part(0).max;
  for (std::int64_t i = 1; i < parts; ++i) max = std::fmax(max, part(i).max);
  float sum = 0;
  for (std::int64_t d = 0; d < dim; ++d) out[d] = 0;
  for (std::int64_t i = 0; i < parts; ++i) {
    const SoftmaxPart one = part(i);
    const float weight = std::exp2(one.max - max);
    sum += weight * one.sum;
    for (std::int64_t d = 0; d < dim; ++d) out[d] += weight * one.out[d];
  }
  for (std::int64_t d = 0; d < dim; ++d) out[d] /= sum;
}

}  // namespace sedpa
