#include "sedpa/attention/head_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "sedpa/core/fail.h"
#include "sedpa/core/hash.h"

namespace sedpa {
namespace {

/// How many of the sorted gates lie below numpy.quantile(gates, sparsity), by numpy's own
/// arithmetic ("linear" method): the virtual index is the rounded product, and where it falls short
/// of a whole number by rounding alone, so does the interpolated threshold.
std::int64_t count_below_quantile(const std::vector<double>& sorted, double sparsity) {
  const auto n = static_cast<std::int64_t>(sorted.size());
  const double virtual_index = static_cast<double>(n - 1) * sparsity;
  const auto below = static_cast<std::int64_t>(std::floor(virtual_index));
  const double fraction = virtual_index - static_cast<double>(below);
  if (fraction == 0.0) return below;
  const double low = sorted[below];
  const double high = sorted[below + 1];
  // The last whole index plus a rounding error: the threshold rounds back to the gate itself, which
  // therefore is not below it. Equal neighbours are a tie, cut by order: the rounded-up count.
  const double threshold =
      fraction >= 0.5 ? high - (high - low) * (1.0 - fraction) : low + (high - low) * fraction;
  return threshold == low && low < high ? below : below + 1;
}

void check_class(const HeadClass& head_class, const char* which) {
  if (head_class.full) return;
  if (head_class.sink < 0 || head_class.middle < 0 || head_class.recent < 1) {
    fail("{} window is {},{},{}: expected sink >= 0, middle >= 0 and recent >= 1", which,
         head_class.sink, head_class.middle, head_class.recent);
  }
}

void check_layout(std::int64_t layers, std::int64_t kv_heads) {
  if (layers < 1 || kv_heads < 1) {
    fail("head plan of {} layers x {} KV heads: expected at least one of each", layers, kv_heads);
  }
}

}  // namespace

std::int64_t HeadClass::capacity(std::int64_t context) const {
  if (full) return context;
  return std::min(context, std::int64_t{sink} + middle + recent);
}

std::int64_t HeadClass::middle_stride(std::int64_t p) const {
  const std::int64_t last = p - recent;  // the youngest position that is old enough
  if (full || middle == 0 || last < sink) return 1;
  std::int64_t stride = 1;
  // Multiples of stride in [sink, last]; those below the sink are taken off (0 is one of them).
  const auto count = [&] {
    const std::int64_t in_sink = sink == 0 ? 0 : (sink - 1) / stride + 1;
    return last / stride + 1 - in_sink;
  };
  while (count() > middle) stride *= 2;
  return stride;
}

bool HeadClass::sees(std::int64_t p, std::int64_t j) const {
  if (j < 0 || j > p) return false;
  if (full || j < sink || p - j < recent) return true;
  return middle > 0 && j % middle_stride(p) == 0;
}

HeadPlan HeadPlan::uniform(std::int32_t layers, std::int32_t kv_heads, HeadClass retrieval) {
  check_layout(layers, kv_heads);
  check_class(retrieval, "retrieval");
  LayerHeads layer;
  layer.order.resize(kv_heads);
  std::iota(layer.order.begin(), layer.order.end(), 0);
  layer.retrieval = kv_heads;
  HeadPlan plan;
  plan.classes[kRetrieval] = retrieval;
  plan.classes[kStreaming] = HeadClass::window(0, 0, 1);  // no head is in it
  plan.layers.assign(layers, layer);
  return plan;
}

HeadPlan HeadPlan::from_gates(std::span<const double> gates, std::int32_t layers,
                              std::int32_t kv_heads, double sparsity, HeadClass retrieval,
                              HeadClass streaming) {
  check_layout(layers, kv_heads);
  check_class(retrieval, "retrieval");
  check_class(streaming, "streaming");
  if (!(sparsity >= 0.0 && sparsity <= 1.0)) {
    fail("sparsity is {}: expected a number from 0 to 1", sparsity);
  }
  const std::int64_t heads = std::int64_t{layers} * kv_heads;
  if (static_cast<std::int64_t>(gates.size()) != heads) {
    fail("attention pattern has {} gates: expected {} layers x {} KV heads", gates.size(), layers,
         kv_heads);
  }
  for (std::int64_t i = 0; i < heads; ++i) {
    if (!std::isfinite(gates[i])) {
      fail("gate of layer {}, head {} is {}: expected a finite number", i / kv_heads, i % kv_heads,
           gates[i]);
    }
  }

  std::vector<std::int32_t> by_gate(heads);  // heads, lowest gate first
  std::iota(by_gate.begin(), by_gate.end(), 0);
  std::stable_sort(by_gate.begin(), by_gate.end(),
                   [&](std::int32_t a, std::int32_t b) { return gates[a] < gates[b]; });
  std::int64_t streams = 0;
  if (sparsity >= 1.0) {
    streams = heads;
  } else if (sparsity > 0.0) {
    std::vector<double> sorted(heads);
    for (std::int64_t i = 0; i < heads; ++i) sorted[i] = gates[by_gate[i]];
    streams = count_below_quantile(sorted, sparsity);
  }
  std::vector<bool> streaming_head(heads, false);
  for (std::int64_t i = 0; i < streams; ++i) streaming_head[by_gate[i]] = true;

  HeadPlan plan;
  plan.classes[kRetrieval] = retrieval;
  plan.classes[kStreaming] = streaming;
  plan.layers.resize(layers);
  for (std::int32_t layer = 0; layer < layers; ++layer) {
    LayerHeads& heads_of_layer = plan.layers[layer];
    for (const bool stream : {false, true}) {
      for (std::int32_t head = 0; head < kv_heads; ++head) {
        if (streaming_head[std::int64_t{layer} * kv_heads + head] == stream) {
          heads_of_layer.order.push_back(head);
        }
      }
      if (!stream)
        heads_of_layer.retrieval = static_cast<std::int32_t>(heads_of_layer.order.size());
    }
  }
  return plan;
}

bool HeadPlan::bounded() const {
  return std::all_of(layers.begin(), layers.end(), [&](const LayerHeads& layer) {
    const auto kept = [&](int c) { return layer.count(c) == 0 || !classes[c].full; };
    return kept(kRetrieval) && kept(kStreaming);
  });
}

std::int64_t HeadPlan::streaming_heads() const {
  std::int64_t total = 0;
  for (const LayerHeads& layer : layers) total += layer.count(kStreaming);
  return total;
}

std::int64_t HeadPlan::streaming_above(std::span<const double> gates, double gate) const {
  std::int64_t total = 0;
  std::size_t begin = 0;  // of the layer's gates
  for (const LayerHeads& layer : layers) {
    for (const std::int32_t head : layer.heads(kStreaming)) {
      if (gates[begin + static_cast<std::size_t>(head)] > gate) ++total;
    }
    begin += layer.order.size();
  }
  return total;
}

std::string HeadPlan::fingerprint() const {
  Hash hash;
  for (const HeadClass& c : classes) {
    hash.add(fmt::format("{} {} {} {};", c.full, c.sink, c.middle, c.recent));
  }
  for (const LayerHeads& layer : layers) {
    hash.add(fmt::format("{}:{};", layer.retrieval, fmt::join(layer.order, ",")));
  }
  return hash.digits();
}

}  // namespace sedpa
