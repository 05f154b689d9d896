#include "sedpa/eval/masking.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "sedpa/core/fail.h"
#include "sedpa/core/hash.h"
#include "sedpa/engine/engine.h"
#include "sedpa/identify/random.h"
#include "sedpa/model/thin_heads.h"

namespace sedpa {
namespace {

// Neighbouring heads as one range of columns.
struct Columns {
  std::int64_t begin;
  std::int64_t count;
};

std::vector<Columns> columns_of(const std::vector<std::int32_t>& heads, std::int64_t head_dim) {
  std::vector<Columns> columns;
  for (const std::int32_t head : heads) {
    const std::int64_t begin = head * head_dim;
    if (!columns.empty() && columns.back().begin + columns.back().count == begin) {
      columns.back().count += head_dim;
    } else {
      columns.push_back({begin, head_dim});
    }
  }
  return columns;
}

}  // namespace

void mask_heads(Session& session, const MaskedHeads& masked) {
  const ModelConfig& config = session.engine().config();
  refuse_thin_heads(config, "masking heads");
  if (std::ssize(masked) > config.layers) {
    fail("heads of {} layers are to be masked, but the model has {}", masked.size(), config.layers);
  }
  std::vector<std::vector<Columns>> layers(static_cast<std::size_t>(config.layers));
  bool any = false;
  for (std::size_t layer = 0; layer < masked.size(); ++layer) {
    for (const std::int32_t head : masked[layer]) {
      if (head < 0 || head >= config.query_heads) {
        fail("head {} of layer {} is to be masked, but a layer has {}", head, layer,
             config.query_heads);
      }
      any = true;
    }
    layers[layer] = columns_of(masked[layer], config.head_dim);
  }
  if (!any) {
    session.observe({});
    return;
  }
  session.observe([&ops = session.engine().ops(), layers](std::int32_t layer, Rows, Rows o) {
    for (const Columns& columns : layers[static_cast<std::size_t>(layer)]) {
      ops.clear(o.columns(columns.begin, columns.count));
    }
  });
}

RankedHeads::RankedHeads(const AttentionPattern& pattern, std::int32_t query_heads, bool kv_heads)
    : layers_(pattern.layers), kv_heads_(kv_heads || pattern.query_scores.empty()) {
  if (!pattern.query_scores.empty() && pattern.query_heads != query_heads) {
    fail("the scores are for {} query heads a layer, but the model has {}", pattern.query_heads,
         query_heads);
  }
  heads_ = kv_heads_ ? pattern.kv_heads : query_heads;
  group_ = query_heads / heads_;
  const std::vector<double>& scores = kv_heads_ ? pattern.gates : pattern.query_scores;
  order_.resize(scores.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(), [&](std::int32_t a, std::int32_t b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
}

MaskedHeads RankedHeads::top(std::int64_t count) const {
  return query_heads({order_.begin(), order_.begin() + std::min(count, size())});
}

MaskedHeads RankedHeads::bottom(std::int64_t count) const {
  return query_heads({order_.end() - std::min(count, size()), order_.end()});
}

MaskedHeads RankedHeads::random(std::int64_t count, std::uint64_t seed) const {
  std::vector<std::int32_t> heads(order_.size());
  std::iota(heads.begin(), heads.end(), 0);
  Random(seed).shuffle(heads);
  heads.resize(static_cast<std::size_t>(std::min(count, size())));
  return query_heads(std::move(heads));
}

std::string RankedHeads::fingerprint() const {
  Hash hash;
  hash.add(std::as_bytes(std::span(order_)));
  return hash.digits();
}

MaskedHeads RankedHeads::query_heads(std::vector<std::int32_t> heads) const {
  std::sort(heads.begin(), heads.end());
  MaskedHeads masked(static_cast<std::size_t>(layers_));
  for (const std::int32_t head : heads) {
    std::vector<std::int32_t>& layer = masked[static_cast<std::size_t>(head / heads_)];
    for (std::int32_t g = 0; g < group_; ++g) layer.push_back(head % heads_ * group_ + g);
  }
  return masked;
}

}  // namespace sedpa
