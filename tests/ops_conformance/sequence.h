#pragma once
// One sequence on a backend: a cache in its memory, filled step by step as an engine would.
#include <memory>
#include <span>
#include <vector>

#include "tests/ops_conformance/backends.h"
#include "tests/ops_conformance/reference.h"

namespace sedpa::conformance {

struct SequenceConfig {
  AttentionShape attention;
  RopeSpec rope;
  KvGeometry geometry;
  std::int64_t max_tokens = 0;  // of one chunk
};

class Sequence {
 public:
  Sequence(const Backend& backend, const SequenceConfig& config);
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  [[nodiscard]] Ops& ops() { return *ops_; }
  [[nodiscard]] KvCache& cache() { return *cache_; }
  /// Begins a step of `tokens` at the cache's length.
  void begin(std::span<const std::int32_t> tokens);
  void begin(std::int64_t tokens);

  /// Where a class's arena begins in the backend's memory.
  [[nodiscard]] const std::byte* arena_begin(int head_class) const {
    return arenas_[static_cast<std::size_t>(head_class)].data;
  }
  /// A class's arena as it is now.
  [[nodiscard]] std::vector<std::byte> arena(int head_class);

 private:
  SequenceConfig config_;
  std::unique_ptr<Ops> ops_;
  std::vector<Buffer> arenas_;
  std::unique_ptr<KvCache> cache_;
  std::vector<std::int32_t> ids_;  // of the step
};

/// Numbers of one stored KV row, by the layout that kv_policy.h states.
[[nodiscard]] std::vector<double> decode_kv_row(KvDtype dtype, std::int64_t dim,
                                                const std::byte* row);

}  // namespace sedpa::conformance
