#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sedpa {

/// What a KV head keeps (docs: the Λ mask). `full`: everything. Otherwise query p sees key j when
/// j <= p and (j < sink, or p - j < recent, or j is in M(p)), where
/// M(p) = { j : sink <= j <= p - recent, j = 0 mod s(p) } and s(p) is the smallest power of two
/// for which |M(p)| <= middle. middle = 0 is a streaming head (DuoAttention, arXiv 2410.10819,
/// section 2.1); middle > 0 is SEDPA-W.
struct HeadClass {
  bool full = true;
  std::int32_t sink = 0;    // tokens, >= 0
  std::int32_t middle = 0;  // tokens, >= 0
  std::int32_t recent = 0;  // tokens, >= 1 for a window: the query itself counts

  static HeadClass window(std::int32_t sink, std::int32_t middle, std::int32_t recent) {
    return {.full = false, .sink = sink, .middle = middle, .recent = recent};
  }
  /// Slots that a head of this class needs for a context of `context` tokens.
  [[nodiscard]] std::int64_t capacity(std::int64_t context) const;
  /// The stride s(p) of the middle sample for query position p; 1 when middle = 0 or nothing is
  /// old enough.
  [[nodiscard]] std::int64_t middle_stride(std::int64_t p) const;
  /// The mask itself, written for reading: tests and references use it.
  [[nodiscard]] bool sees(std::int64_t p, std::int64_t j) const;

  friend bool operator==(const HeadClass&, const HeadClass&) = default;
};

/// Gates above this are as good as 1: what trained them hardly told them apart, and a split among
/// them is one by chance. Models with few KV heads have many such.
inline constexpr double kSaturatedGate = 0.9;

/// The two classes of a plan, in the order in which a layer's heads stand.
inline constexpr int kRetrieval = 0;
inline constexpr int kStreaming = 1;
inline constexpr int kHeadClasses = 2;

/// One layer: its KV heads, retrieval first, each class in ascending head order.
struct LayerHeads {
  std::vector<std::int32_t> order;  // [kv_heads], a permutation of the KV heads
  std::int32_t retrieval = 0;       // how many of them are retrieval heads

  [[nodiscard]] std::int32_t count(int head_class) const {
    return head_class == kRetrieval ? retrieval
                                    : static_cast<std::int32_t>(order.size()) - retrieval;
  }
  /// The KV heads of one class.
  [[nodiscard]] std::span<const std::int32_t> heads(int head_class) const {
    const auto all = std::span<const std::int32_t>(order);
    return head_class == kRetrieval ? all.first(retrieval) : all.subspan(retrieval);
  }
};

/// Which head is in which class, for every layer.
struct HeadPlan {
  HeadClass classes[kHeadClasses];  // [retrieval, streaming]
  std::vector<LayerHeads> layers;

  /// All heads of `layers` x `kv_heads` in the retrieval class.
  static HeadPlan uniform(std::int32_t layers, std::int32_t kv_heads, HeadClass retrieval);
  /// Splits by gates [layers, kv_heads] at `sparsity` in [0, 1]: of all n heads the
  /// ceil(s (n - 1)) lowest gates stream, which is what `gate >= numpy.quantile(gates, s)` keeps;
  /// s <= 0 streams none, s >= 1 all. Equal gates go by (layer, head) order.
  /// Throws Error when sparsity is outside [0, 1] or the sizes disagree.
  static HeadPlan from_gates(std::span<const double> gates, std::int32_t layers,
                             std::int32_t kv_heads, double sparsity, HeadClass retrieval,
                             HeadClass streaming);
  /// No head keeps everything: memory and time a token stay the same for ever.
  [[nodiscard]] bool bounded() const;
  /// Heads that stream, over all layers.
  [[nodiscard]] std::int64_t streaming_heads() const;
  /// Those of them whose gate [layers, kv_heads] is above `gate`.
  [[nodiscard]] std::int64_t streaming_above(std::span<const double> gates, double gate) const;
  /// 16 hexadecimal digits over its classes and which heads are in which.
  [[nodiscard]] std::string fingerprint() const;
};

}  // namespace sedpa
