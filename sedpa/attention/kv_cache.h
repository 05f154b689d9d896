#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sedpa/attention/head_plan.h"
#include "sedpa/attention/kv_policy.h"

namespace sedpa {

/// Where one row of a chunk is stored by a commit.
struct SlotWrite {
  std::int32_t row;   // of the chunk
  std::int32_t slot;  // of the class
};

/// Which position each slot of a window class holds: the same for all layers and heads of the
/// class. Sinks stand in slots [0, sink). The others share a pool of middle + recent slots, and the
/// state is what storing one token after the other gives, so it depends on the length alone:
///   1. token p takes the pool slot that has been free longest (at first: the lowest);
///   2. the slots of positions that no query after p can see fall free: the position that leaves
///      the recent window, unless the middle sample of query p + 1 has it, and when the sample's
///      stride grows, all that it drops, in slot order.
/// Survivors never move, and a slot is always free in time: before token p come at most
/// recent - 1 recent positions and `middle` sampled ones. With middle = 0 this is the ring
/// slot = sink + (position - sink) mod recent.
class WindowSlots {
 public:
  /// `capacity` = HeadClass::capacity(context): a context shorter than the window needs fewer.
  WindowSlots(HeadClass head_class, std::int64_t capacity);

  /// Position held by each slot, -1 where no later query can see what is there. [capacity]
  [[nodiscard]] std::span<const std::int32_t> positions() const { return positions_; }
  /// Where a chunk of `tokens` rows that starts at position `past` goes: only rows that some later
  /// query can see are written, each slot once. Appends to `writes`; changes nothing. `past` is
  /// what has been committed. O(capacity + tokens), of one token O(1).
  void plan(std::int64_t past, std::int64_t tokens, std::vector<SlotWrite>& writes) const;
  /// Takes over what `plan` for the same arguments said.
  void commit(std::int64_t past, std::int64_t tokens);
  void clear();

 private:
  /// Of token p, when all before have been stored.
  [[nodiscard]] std::int32_t next_slot(std::int64_t p) const;
  void store(std::int64_t p);
  void release(std::int64_t slot);

  HeadClass head_class_;
  std::int64_t stride_ = 1;              // of the middle sample for the next query
  std::vector<std::int32_t> positions_;  // [capacity]
  std::vector<std::int32_t> free_;       // [pool], a queue: slots by the time they fell free
  std::int64_t free_begin_ = 0;          // index of the queue's head
  std::int64_t free_count_ = 0;
  std::vector<std::int32_t> recent_slot_;  // [pool or recent], slot of position p at p mod size
};

/// The sizes that fix a cache: the planned bytes are the allocated bytes.
struct KvGeometry {
  HeadPlan plan;
  std::int64_t context = 0;  // tokens that can be committed
  std::int32_t head_dim = 0;
  KvDtype dtype = KvDtype::f16;
  std::vector<HeadWidths> widths = {};  // [layers, kv_heads]; empty: head_dim everywhere

  /// Numbers of the rows of a layer's class: its widest head's. 0 when it has no heads.
  [[nodiscard]] HeadWidths row_widths(std::size_t layer, int head_class) const;
  /// Slots of one head of a class.
  [[nodiscard]] std::int64_t capacity(int head_class) const;
  /// Bytes of a class's arena; throws Error when the product overflows.
  [[nodiscard]] std::size_t arena_bytes(int head_class) const;
  [[nodiscard]] std::size_t bytes() const;
  /// Bytes of keys and values that one decode step reads when `length` tokens are committed.
  [[nodiscard]] std::size_t read_bytes(std::int64_t length) const;
};

/// Addresses and slot state of one sequence's keys and values. It owns no big memory: the arenas
/// belong to the backend, are sized by KvGeometry::arena_bytes and never move or grow.
class KvCache {
 public:
  KvCache(KvGeometry geometry, std::array<std::byte*, kHeadClasses> arenas);

  [[nodiscard]] const KvGeometry& geometry() const { return geometry_; }
  [[nodiscard]] std::int64_t length() const { return length_; }  // tokens committed
  [[nodiscard]] const KvLayer& layer(std::int64_t index) const { return layers_[index]; }
  [[nodiscard]] std::int64_t layers() const { return static_cast<std::int64_t>(layers_.size()); }
  /// Position of each slot of a class, -1 where empty; for a full class slot = position, and the
  /// span is empty.
  [[nodiscard]] std::span<const std::int32_t> positions(int head_class) const;
  /// Where the next `tokens` rows go in a class (a full class: slot = length() + row).
  [[nodiscard]] std::vector<SlotWrite> plan_commit(int head_class, std::int64_t tokens) const;
  /// Says that the next `tokens` rows have been stored as planned, in all layers.
  void advance(std::int64_t tokens);
  void clear();
  /// Takes up the state that a cache of the same geometry had after `length` tokens, however they
  /// were chunked (slot state depends on the length alone).
  void restore(std::int64_t length);

 private:
  KvGeometry geometry_;
  std::vector<KvLayer> layers_;
  std::vector<WindowSlots> slots_;  // [kHeadClasses]; a full class's stays empty
  std::int64_t length_ = 0;
};

}  // namespace sedpa
