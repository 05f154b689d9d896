#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sedpa/tokenizer/vocabulary.h"

namespace sedpa {

/// The ranked list of merges: which two neighbouring tokens become which, the lower rank first.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank = 0;
    std::int32_t id = -1;
  };

  void reserve(std::size_t count);
  /// A pair that is there already keeps its first rank.
  void add(std::int32_t left, std::int32_t right, std::int32_t merged);
  [[nodiscard]] std::size_t size() const { return size_; }

  /// Null when the two do not merge; ids below 0 never do.
  [[nodiscard]] const Merge* find(std::int32_t left, std::int32_t right) const {
    if (left < 0 || right < 0 || slots_.empty()) return nullptr;
    const Slot& slot = slots_[slot_of(key(left, right))];
    return slot.key == kEmpty ? nullptr : &slot.merge;
  }

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t key = kEmpty;
    Merge merge;
  };
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  }
  [[nodiscard]] std::size_t slot_of(std::uint64_t wanted) const;
  void rehash(std::size_t slots);

  std::vector<Slot> slots_;  // [power of two]
  std::size_t size_ = 0;
};

/// Adds the merge of two tokens, given by their texts. Throws Error when the vocabulary lacks one
/// of them or what they make.
void add_merge(MergeTable& merges, const Vocabulary& vocabulary, std::string_view left,
               std::string_view right);

/// How the words of a text become tokens.
enum class MergeModel : std::uint8_t {
  bytes,       ///< ranked merges that begin with bytes, spelt in GPT-2's alphabet
  characters,  ///< ranked merges that begin with characters, byte tokens for those unknown
  scores,      ///< SentencePiece: neighbours that form a token join, the highest score first
};

/// Sennrich et al. 2016 (byte pair encoding), and Kudo and Richardson 2018 for the scores. A word
/// of n characters costs O(n log n). Immutable once built.
class Bpe {
 public:
  MergeModel model = MergeModel::bytes;
  MergeTable merges;          // bytes, characters
  std::vector<float> scores;  // [vocabulary] scores
  /// A word that is a token is that token, whatever the merges would make of it (bytes).
  bool ignore_merges = false;
  bool byte_fallback = false;  // characters, scores: "<0x0A>" tokens for unknown characters
  std::int32_t unknown = -1;   // for what nothing else covers; -1: it is left out
  bool fuse_unknown = true;    // neighbouring unknowns become one

  /// To be called once, when the vocabulary and what stands above are complete.
  void prepare(const Vocabulary& vocabulary);

  /// Room that encode uses; one for each thread.
  struct Room;
  [[nodiscard]] static std::shared_ptr<Room> make_room();

  /// Appends the ids of one word: bytes as they are in the text for MergeModel::bytes, spaces made
  /// visible for the others.
  void encode(std::string_view word, const Vocabulary& vocabulary, Room& room,
              std::vector<std::int32_t>& ids) const;

  /// Whether a word may be cut between `text[place - 1]` and the "▁" at `place` without changing
  /// its tokens: no token has the two side by side.
  [[nodiscard]] bool may_cut(std::string_view text, std::size_t place) const {
    return place > 0 && !before_space_[static_cast<unsigned char>(text[place - 1])];
  }

 private:
  void start_bytes(std::string_view word, Room& room) const;
  void start_characters(std::string_view word, const Vocabulary& vocabulary, Room& room) const;
  void merge_scores(std::string_view word, const Vocabulary& vocabulary, Room& room) const;
  void finish(std::string_view word, Room& room, std::vector<std::int32_t>& ids) const;

  std::array<std::int32_t, 256> byte_ids_{};  // the token of a byte, or -1
  std::array<bool, 256> before_space_{};      // bytes that precede a "▁" inside some token
  std::vector<std::uint32_t> order_;          // [vocabulary] place in the order of scores, or ~0
};

}  // namespace sedpa
