#include "sedpa/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <queue>

#include "sedpa/core/fail.h"
#include "sedpa/format/printable.h"
#include "sedpa/tokenizer/byte_alphabet.h"
#include "sedpa/tokenizer/spaces.h"
#include "sedpa/tokenizer/utf8.h"

namespace sedpa {

namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};

/// A piece of the word that is one token so far; id < 0: bytes without a token.
struct Symbol {
  std::int32_t id;
  std::uint32_t begin;
  std::uint32_t size;
};

/// What two neighbours would become; order == kNone: they do not merge.
struct Join {
  std::uint32_t order = kNone;
  std::int32_t id = -1;
};

/// A join that waits in the queue. `size` of both halves together tells whether it is still the
/// join that was meant: halves only grow.
struct Waiting {
  std::uint64_t order_and_left;
  std::uint32_t size;
  std::int32_t id;
  bool operator<(const Waiting& other) const { return order_and_left > other.order_and_left; }
};

}  // namespace

struct Bpe::Room {
  std::vector<Symbol> symbols;
  std::vector<Join> joins;             // [symbols] with the next one (short words)
  std::vector<std::int32_t> next;      // [symbols] (long words)
  std::vector<std::int32_t> previous;  // [symbols]
  std::vector<Waiting> heap;
  std::string spelt;
};

namespace {

/// Words up to this length are searched through for their best join; longer ones keep a queue.
constexpr std::size_t kShortWord = 24;

template <class Find>
void merge_short(Bpe::Room& room, const Find& find) {
  auto& symbols = room.symbols;
  auto& joins = room.joins;
  joins.resize(symbols.size());
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) joins[i] = find(symbols[i], symbols[i + 1]);
  while (symbols.size() > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < symbols.size(); ++i) {
      if (joins[i].order < joins[best].order) best = i;
    }
    if (joins[best].order == kNone) return;
    symbols[best].id = joins[best].id;
    symbols[best].size += symbols[best + 1].size;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    joins.erase(joins.begin() + static_cast<std::ptrdiff_t>(best));
    if (best > 0) joins[best - 1] = find(symbols[best - 1], symbols[best]);
    if (best + 1 < symbols.size()) joins[best] = find(symbols[best], symbols[best + 1]);
  }
}

template <class Find>
void merge_long(Bpe::Room& room, const Find& find) {
  auto& symbols = room.symbols;
  auto& next = room.next;
  auto& previous = room.previous;
  auto& heap = room.heap;
  const auto count = static_cast<std::int32_t>(symbols.size());
  next.resize(symbols.size());
  previous.resize(symbols.size());
  heap.clear();
  const auto at = [&](std::int32_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };
  const auto wait = [&](std::int32_t left, std::int32_t right) {
    const Join join = find(at(left), at(right));
    if (join.order == kNone) return false;
    heap.push_back({static_cast<std::uint64_t>(join.order) << 32 | static_cast<std::uint32_t>(left),
                    at(left).size + at(right).size, join.id});
    return true;
  };
  for (std::int32_t i = 0; i < count; ++i) {
    next[static_cast<std::size_t>(i)] = i + 1 < count ? i + 1 : -1;
    previous[static_cast<std::size_t>(i)] = i - 1;
    if (i + 1 < count) wait(i, i + 1);
  }
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Waiting join = heap.back();
    heap.pop_back();
    const auto left = static_cast<std::int32_t>(join.order_and_left & 0xFFFFFFFFu);
    const std::int32_t right = next[static_cast<std::size_t>(left)];
    if (at(left).size == 0 || right < 0 || at(left).size + at(right).size != join.size) continue;
    at(left).id = join.id;
    at(left).size = join.size;
    at(right).size = 0;  // taken up: it no longer counts
    const std::int32_t after = next[static_cast<std::size_t>(right)];
    next[static_cast<std::size_t>(left)] = after;
    if (after >= 0) {
      previous[static_cast<std::size_t>(after)] = left;
      if (wait(left, after)) std::push_heap(heap.begin(), heap.end());
    }
    const std::int32_t before = previous[static_cast<std::size_t>(left)];
    if (before >= 0 && wait(before, left)) std::push_heap(heap.begin(), heap.end());
  }
  std::erase_if(symbols, [](const Symbol& symbol) { return symbol.size == 0; });
}

template <class Find>
void merge(Bpe::Room& room, const Find& find) {
  if (room.symbols.size() <= kShortWord) {
    merge_short(room, find);
  } else {
    merge_long(room, find);
  }
}

/// Special tokens are found before words are cut; inside a word only ordinary ones count.
bool joins_words(TokenKind kind) { return kind == TokenKind::normal || kind == TokenKind::unused; }

}  // namespace

void MergeTable::reserve(std::size_t count) { rehash(std::bit_ceil(2 * count + 2)); }

void MergeTable::add(std::int32_t left, std::int32_t right, std::int32_t merged) {
  if (2 * (size_ + 1) > slots_.size()) rehash(std::max<std::size_t>(64, 2 * slots_.size()));
  Slot& slot = slots_[slot_of(key(left, right))];
  if (slot.key != kEmpty) return;
  slot = {key(left, right), {static_cast<std::uint32_t>(size_), merged}};
  ++size_;
}

std::size_t MergeTable::slot_of(std::uint64_t wanted) const {
  // Fibonacci hashing: the high bits of the product depend on all bits of the key.
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = ((wanted * 0x9E3779B97F4A7C15u) >> 20) & mask;
  while (slots_[slot].key != kEmpty && slots_[slot].key != wanted) slot = (slot + 1) & mask;
  return slot;
}

void MergeTable::rehash(std::size_t count) {
  std::vector<Slot> old(count);
  std::swap(old, slots_);
  for (const Slot& slot : old) {
    if (slot.key != kEmpty) slots_[slot_of(slot.key)] = slot;
  }
}

void add_merge(MergeTable& merges, const Vocabulary& vocabulary, std::string_view left,
               std::string_view right) {
  std::string joined;
  joined.reserve(left.size() + right.size());
  joined.append(left).append(right);
  const std::int32_t ids[] = {vocabulary.find(left), vocabulary.find(right),
                              vocabulary.find(joined)};
  for (const std::int32_t id : ids) {
    if (id >= 0) continue;
    fail("{}: merge {} of {} and {}: {} is not in the vocabulary", vocabulary.name(), merges.size(),
         printable(left), printable(right),
         printable(ids[0] < 0   ? left
                   : ids[1] < 0 ? right
                                : joined));
  }
  merges.add(ids[0], ids[1], ids[2]);
}

std::shared_ptr<Bpe::Room> Bpe::make_room() { return std::make_shared<Room>(); }

void Bpe::prepare(const Vocabulary& vocabulary) {
  for (int byte = 0; byte < 256; ++byte) {
    std::int32_t id = -1;
    if (model == MergeModel::bytes) {
      id = vocabulary.find(alphabet_character(static_cast<std::uint8_t>(byte)));
    } else if (byte_fallback) {
      static constexpr std::string_view kHex = "0123456789ABCDEF";
      const char text[] = {'<',
                           '0',
                           'x',
                           kHex[static_cast<std::size_t>(byte >> 4)],
                           kHex[static_cast<std::size_t>(byte & 15)],
                           '>'};
      id = vocabulary.find({text, sizeof text});
    }
    byte_ids_[static_cast<std::size_t>(byte)] = id;
  }
  if (model == MergeModel::bytes) return;

  for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = vocabulary.text(id);
    if (!joins_words(vocabulary.kind(id))) continue;
    for (std::size_t i = text.find(kMetaspace, 1); i != std::string_view::npos;
         i = text.find(kMetaspace, i + 1)) {
      before_space_[static_cast<unsigned char>(text[i - 1])] = true;
    }
  }
  if (model != MergeModel::scores) return;

  // Scores become places in their order, equal ones the same place, so that one integer compares.
  std::vector<std::int32_t> by_score(scores.size());
  std::iota(by_score.begin(), by_score.end(), 0);
  const auto score = [&](std::int32_t id) { return scores[static_cast<std::size_t>(id)]; };
  std::sort(by_score.begin(), by_score.end(),
            [&](std::int32_t a, std::int32_t b) { return score(a) > score(b); });
  order_.assign(scores.size(), kNone);
  std::uint32_t place = 0;
  for (std::size_t i = 0; i < by_score.size(); ++i) {
    if (i > 0 && score(by_score[i]) != score(by_score[i - 1])) ++place;
    if (joins_words(vocabulary.kind(by_score[i]))) {
      order_[static_cast<std::size_t>(by_score[i])] = place;
    }
  }
}

void Bpe::start_bytes(std::string_view word, Room& room) const {
  room.symbols.clear();
  for (std::size_t i = 0; i < word.size(); ++i) {
    room.symbols.push_back(
        {byte_ids_[static_cast<unsigned char>(word[i])], static_cast<std::uint32_t>(i), 1});
  }
}

void Bpe::start_characters(std::string_view word, const Vocabulary& vocabulary, Room& room) const {
  room.symbols.clear();
  for (std::size_t i = 0; i < word.size();) {
    const std::size_t size = std::max<std::size_t>(utf8_character(word, i), 1);
    std::int32_t id = vocabulary.find(word.substr(i, size));
    if (id >= 0 && !joins_words(vocabulary.kind(id))) id = -1;
    room.symbols.push_back({id, static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(size)});
    i += size;
  }
}

void Bpe::merge_scores(std::string_view word, const Vocabulary& vocabulary, Room& room) const {
  merge(room, [&](const Symbol& left, const Symbol& right) -> Join {
    const std::int32_t id = vocabulary.find(word.substr(left.begin, left.size + right.size));
    if (id < 0) return {};
    return {order_[static_cast<std::size_t>(id)], id};
  });
}

void Bpe::finish(std::string_view word, Room& room, std::vector<std::int32_t>& ids) const {
  bool unknown_before = false;
  for (const Symbol& symbol : room.symbols) {
    if (symbol.id >= 0) {
      ids.push_back(symbol.id);
      unknown_before = false;
      continue;
    }
    const std::string_view text = word.substr(symbol.begin, symbol.size);
    const auto byte_id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    const bool covered =
        std::all_of(text.begin(), text.end(), [&](char c) { return byte_id(c) >= 0; });
    if (covered) {
      for (const char c : text) ids.push_back(byte_id(c));
    } else if (unknown >= 0 && !(unknown_before && fuse_unknown)) {
      ids.push_back(unknown);
    }
    unknown_before = !covered;
  }
}

void Bpe::encode(std::string_view word, const Vocabulary& vocabulary, Room& room,
                 std::vector<std::int32_t>& ids) const {
  if (ignore_merges) {
    room.spelt.clear();
    if (model == MergeModel::bytes) {
      spell_bytes(word, room.spelt);
    } else {
      room.spelt = word;
    }
    const std::int32_t id = vocabulary.find(room.spelt);
    if (id >= 0 && joins_words(vocabulary.kind(id))) {
      ids.push_back(id);
      return;
    }
  }
  if (model == MergeModel::bytes) {
    start_bytes(word, room);
  } else {
    start_characters(word, vocabulary, room);
  }
  if (model == MergeModel::scores) {
    merge_scores(word, vocabulary, room);
  } else {
    merge(room, [&](const Symbol& left, const Symbol& right) -> Join {
      const MergeTable::Merge* found = merges.find(left.id, right.id);
      return found == nullptr ? Join{} : Join{found->rank, found->id};
    });
  }
  finish(word, room, ids);
}

}  // namespace sedpa
