#pragma once
// attention and commit together, as a sequence of steps: what is stored, where, and what each query
// of each head makes of it. Every KV dtype, head sizes, groups, plans, chunkings, ring wraps.
//
// First all keys and values of a case are committed to a cache that keeps everything, and read back
// by the layout that kv_policy.h states: that is what the backend's KV dtype makes of them, checked
// number by number against what went in. Those numbers are the reference's keys and values. A chunk
// sees its own keys and values as the cache would store them, so that the result does not depend on
// how a prompt was cut into chunks (contract 1). Then the case's own plan runs, and its slots must
// hold the same numbers.
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

#include "tests/ops_conformance/inputs.h"
#include "tests/ops_conformance/sequence.h"

namespace sedpa::conformance {

struct AttentionCase {
  std::string name;
  std::int32_t group = 3;
  std::int32_t kv_heads = 3;
  std::int32_t head_dim = 64;
  KvDtype dtype = KvDtype::f16;
  HeadClass retrieval = {};
  HeadClass streaming = HeadClass::window(4, 0, 12);
  std::vector<std::int32_t> retrieval_heads = {1};  // of each layer
  std::vector<std::int64_t> chunks;
  bool lattice = false;                    // inputs that bf16 holds exactly
  std::int64_t context = 0;                // 0: just enough
  std::int64_t checked_queries = 1 << 30;  // the last ones; long contexts check a few
  std::vector<HeadWidths> widths = {};     // [layers, kv_heads]; empty: no head is thin

  [[nodiscard]] std::int64_t tokens() const {
    std::int64_t sum = 0;
    for (std::int64_t chunk : chunks) sum += chunk;
    return sum;
  }
  [[nodiscard]] std::int64_t layers() const {
    return static_cast<std::int64_t>(retrieval_heads.size());
  }
};

void PrintTo(const AttentionCase& c, std::ostream* out);

/// Chunks of one size, and what is left of the tokens.
[[nodiscard]] std::vector<std::int64_t> chunks_of(std::int64_t tokens, std::int64_t chunk);

/// [layer][tokens, the layer's qkv_cols], rotated already as far as attention is concerned.
using AttentionInputs = std::vector<std::vector<float>>;

/// The case on every backend that runs it; `change` has a last word on its inputs.
void check_attention(const AttentionCase& c, std::uint64_t seed,
                     const std::function<void(AttentionInputs&)>& change = {});

}  // namespace sedpa::conformance
