#include "sedpa/attention/kv_cache.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "sedpa/attention/visible_keys.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"

namespace sedpa {

// --- WindowSlots
// ----------------------------------------------------------------------------------

WindowSlots::WindowSlots(HeadClass head_class, std::int64_t capacity) : head_class_(head_class) {
  const std::int64_t pool = std::max<std::int64_t>(0, capacity - head_class.sink);
  positions_.resize(std::max<std::int64_t>(0, capacity));
  free_.resize(pool);
  recent_slot_.resize(std::min<std::int64_t>(pool, head_class.recent));
  clear();
}

void WindowSlots::clear() {
  std::fill(positions_.begin(), positions_.end(), -1);
  const auto pool = static_cast<std::int64_t>(free_.size());
  for (std::int64_t i = 0; i < pool; ++i) {
    free_[i] = static_cast<std::int32_t>(head_class_.sink + i);
  }
  free_begin_ = 0;
  free_count_ = pool;
  stride_ = 1;
}

void WindowSlots::release(std::int64_t slot) {
  const auto pool = static_cast<std::int64_t>(free_.size());
  positions_[slot] = -1;
  std::int64_t tail = free_begin_ + free_count_;
  if (tail >= pool) tail -= pool;
  free_[tail] = static_cast<std::int32_t>(slot);
  ++free_count_;
}

std::int32_t WindowSlots::next_slot(std::int64_t p) const {
  if (p < head_class_.sink) return static_cast<std::int32_t>(p);
  if (free_count_ == 0) fail("window of {} slots is full at position {}", positions_.size(), p);
  return free_[free_begin_];
}

void WindowSlots::store(std::int64_t p) {
  const std::int32_t slot = next_slot(p);
  positions_[slot] = static_cast<std::int32_t>(p);
  if (p < head_class_.sink) return;
  const auto pool = static_cast<std::int64_t>(free_.size());
  if (++free_begin_ == pool) free_begin_ = 0;
  --free_count_;

  // `leaving` is the youngest position that query p + 1 sees only if it is sampled.
  const auto recents = static_cast<std::int64_t>(recent_slot_.size());
  recent_slot_[p % recents] = slot;
  const std::int64_t leaving = p + 1 - head_class_.recent;
  if (leaving < head_class_.sink) return;
  const std::int64_t stride = head_class_.middle_stride(p + 1);
  if (stride != stride_) {  // doublings are rare: a scan now and then costs nothing a token
    stride_ = stride;
    const auto capacity = static_cast<std::int64_t>(positions_.size());
    for (std::int64_t i = head_class_.sink; i < capacity; ++i) {
      const std::int64_t held = positions_[i];
      if (held >= 0 && held <= leaving && held % stride != 0) release(i);
    }
  } else if (head_class_.middle == 0 || leaving % stride != 0) {
    release(recent_slot_[leaving % recents]);
  }
}

void WindowSlots::commit(std::int64_t past, std::int64_t tokens) {
  for (std::int64_t p = past; p < past + tokens; ++p) store(p);
}

void WindowSlots::plan(std::int64_t past, std::int64_t tokens,
                       std::vector<SlotWrite>& writes) const {
  // One token, behind which at least one more is recent: it stays where it is put.
  if (tokens == 1 && head_class_.recent > 1) {
    writes.push_back({0, next_slot(past)});
    return;
  }
  WindowSlots after = *this;
  after.commit(past, tokens);
  const auto capacity = static_cast<std::int64_t>(positions_.size());
  for (std::int64_t slot = 0; slot < capacity; ++slot) {
    const std::int64_t position = after.positions_[slot];
    if (position >= past) {
      writes.push_back(
          {static_cast<std::int32_t>(position - past), static_cast<std::int32_t>(slot)});
    }
  }
}

// --- KvGeometry
// -----------------------------------------------------------------------------------

std::int64_t KvGeometry::capacity(int head_class) const {
  return plan.classes[head_class].capacity(context);
}

HeadWidths KvGeometry::row_widths(std::size_t layer, int head_class) const {
  const LayerHeads& of = plan.layers[layer];
  if (widths.empty()) {
    return of.count(head_class) > 0 ? HeadWidths{head_dim, head_dim} : HeadWidths{};
  }
  HeadWidths widest;
  const std::span<const HeadWidths> all =
      std::span(widths).subspan(layer * of.order.size(), of.order.size());
  for (const std::int32_t head : of.heads(head_class)) {
    widest.key = std::max(widest.key, all[static_cast<std::size_t>(head)].key);
    widest.value = std::max(widest.value, all[static_cast<std::size_t>(head)].value);
  }
  return widest;
}

namespace {

std::size_t product(std::int64_t row_pair_bytes, std::int64_t tokens) {
  const auto bytes = checked_mul<std::int64_t>(row_pair_bytes, tokens);
  if (!bytes) {
    fail("KV cache of {} tokens x {} bytes is too large: its size overflows", tokens,
         row_pair_bytes);
  }
  return static_cast<std::size_t>(*bytes);
}

// Bytes of one token's keys and values of a class, over all layers.
std::int64_t row_pair_bytes(const KvGeometry& geometry, int head_class) {
  std::int64_t sum = 0;
  for (std::size_t layer = 0; layer < geometry.plan.layers.size(); ++layer) {
    const HeadWidths widths = geometry.row_widths(layer, head_class);
    const std::int64_t pair =
        kv_row_bytes(geometry.dtype, widths.key) + kv_row_bytes(geometry.dtype, widths.value);
    const std::int64_t heads = geometry.plan.layers[layer].count(head_class);
    const auto of_layer = checked_mul<std::int64_t>(heads, pair);
    const auto so_far = of_layer ? checked_add<std::int64_t>(sum, *of_layer) : std::nullopt;
    if (!so_far) {
      fail("KV cache of {} heads x {} bytes is too large: its size overflows", heads, pair);
    }
    sum = *so_far;
  }
  return sum;
}

void check_widths(const KvGeometry& geometry) {
  std::size_t heads = 0;
  for (const LayerHeads& layer : geometry.plan.layers) {
    if (layer.order.size() != geometry.plan.layers.front().order.size()) {
      fail("KV cache: thin heads in layers of {} and of {} KV heads, expected as many in each",
           geometry.plan.layers.front().order.size(), layer.order.size());
    }
    heads += layer.order.size();
  }
  if (geometry.widths.size() != heads) {
    fail("KV cache: widths of {} heads, expected {}", geometry.widths.size(), heads);
  }
  for (const HeadWidths& widths : geometry.widths) {
    for (const std::int32_t width : {widths.key, widths.value}) {
      if (width < 2 || width % 2 != 0 || width > geometry.head_dim) {
        fail("KV cache: width of a head is {}, expected an even number from 2 to {}", width,
             geometry.head_dim);
      }
    }
  }
}

void check(const KvGeometry& geometry) {
  if (geometry.head_dim < 2 || geometry.head_dim % 2 != 0) {
    fail("KV cache: head size is {}, expected an even number >= 2", geometry.head_dim);
  }
  if (geometry.context < 0 || geometry.context > std::numeric_limits<std::int32_t>::max()) {
    fail("KV cache: context is {} tokens, expected 0 to {}", geometry.context,
         std::numeric_limits<std::int32_t>::max());
  }
  for (const HeadClass& head_class : geometry.plan.classes) {
    if (head_class.full) continue;
    if (head_class.sink < 0 || head_class.middle < 0 || head_class.recent < 1) {
      fail("KV cache: window is {},{},{}, expected sink >= 0, middle >= 0 and recent >= 1",
           head_class.sink, head_class.middle, head_class.recent);
    }
  }
  if (!geometry.widths.empty()) check_widths(geometry);
}

}  // namespace

std::size_t KvGeometry::arena_bytes(int head_class) const {
  check(*this);
  return product(row_pair_bytes(*this, head_class), capacity(head_class));
}

std::size_t KvGeometry::bytes() const {
  const auto sum = checked_add(arena_bytes(kRetrieval), arena_bytes(kStreaming));
  if (!sum) fail("KV cache of {} tokens is too large: its size overflows", context);
  return *sum;
}

std::size_t KvGeometry::read_bytes(std::int64_t length) const {
  check(*this);
  std::size_t bytes = 0;
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    const HeadClass& kept = plan.classes[head_class];
    const std::int64_t keys = stored_keys(kept, length).count();
    bytes += product(row_pair_bytes(*this, head_class), keys);
  }
  return bytes;
}

// --- KvCache
// --------------------------------------------------------------------------------------

KvCache::KvCache(KvGeometry geometry, std::array<std::byte*, kHeadClasses> arenas)
    : geometry_(std::move(geometry)) {
  check(geometry_);
  layers_.resize(geometry_.plan.layers.size());
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    // Throws when the sizes overflow: the sums below then cannot.
    const std::size_t arena_bytes = geometry_.arena_bytes(head_class);
    std::byte* at = arenas[head_class];
    if (at == nullptr && arena_bytes > 0) {
      fail("KV cache: the arena of class {} is missing, expected {} bytes", head_class,
           arena_bytes);
    }
    const std::int64_t capacity = geometry_.capacity(head_class);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const LayerHeads& heads = geometry_.plan.layers[i];
      KvBlock& block = layers_[i].blocks[head_class];
      block.heads = heads.count(head_class);
      block.capacity = capacity;
      const HeadWidths widths = geometry_.row_widths(i, head_class);
      block.key_dim = widths.key;
      block.value_dim = widths.value;
      block.key_row_bytes = kv_row_bytes(geometry_.dtype, widths.key);
      block.value_row_bytes = kv_row_bytes(geometry_.dtype, widths.value);
      const std::int64_t rows = block.heads * capacity;
      if (rows > 0) {
        block.keys = at;
        block.values = at + rows * block.key_row_bytes;
        at += rows * (block.key_row_bytes + block.value_row_bytes);
      }
    }
    const HeadClass& kept = geometry_.plan.classes[head_class];
    slots_.emplace_back(kept, kept.full ? 0 : capacity);
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].heads = &geometry_.plan.layers[i];
  }
}

std::span<const std::int32_t> KvCache::positions(int head_class) const {
  return slots_[head_class].positions();
}

std::vector<SlotWrite> KvCache::plan_commit(int head_class, std::int64_t tokens) const {
  if (tokens < 0 || tokens > geometry_.context - length_) {
    fail("KV cache holds {} of {} tokens: no room for {} more", length_, geometry_.context, tokens);
  }
  std::vector<SlotWrite> writes;
  if (!geometry_.plan.classes[head_class].full) {
    slots_[head_class].plan(length_, tokens, writes);
    return writes;
  }
  writes.reserve(tokens);
  for (std::int64_t row = 0; row < tokens; ++row) {
    writes.push_back({static_cast<std::int32_t>(row), static_cast<std::int32_t>(length_ + row)});
  }
  return writes;
}

void KvCache::advance(std::int64_t tokens) {
  if (tokens < 0 || tokens > geometry_.context - length_) {
    fail("KV cache holds {} of {} tokens: no room for {} more", length_, geometry_.context, tokens);
  }
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    if (!geometry_.plan.classes[head_class].full) slots_[head_class].commit(length_, tokens);
  }
  length_ += tokens;
}

void KvCache::clear() {
  for (WindowSlots& slots : slots_) slots.clear();
  length_ = 0;
}

void KvCache::restore(std::int64_t length) {
  if (length < 0 || length > geometry_.context) {
    fail("KV cache has room for {} tokens: cannot take up a state of {}", geometry_.context,
         length);
  }
  clear();
  advance(length);
}

}  // namespace sedpa
