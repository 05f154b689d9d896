#pragma once
// Where numbers stand on their way from phase to phase of a decode program (decode_program.h).
//
// A phase's outputs are read by other multiprocessors as soon as they are there. To say so in the
// usual way (outputs, a fence, a counter) takes 2 us while the memory is busy, for a fence waits
// until all stores have been answered. So each number says so itself: its lowest bit is that of the
// pass's number, which the next pass turns over (SentNumbers, program_room.cuh). That asks for a
// place for each number of a pass that nothing else writes to: the exchange has one for all outputs
// of all phases. A number loses its lowest bit on the way, whatever the pass: results repeat.
#include <cstdint>
#include <optional>
#include <vector>

namespace sedpa::cuda {

/// Lays out an exchange while phases are added, and knows who reads what from it.
class ProgramExchange {
 public:
  /// Numbers that no phase of this launch has written: they are where the operation says.
  static constexpr std::int32_t kBefore = -1;

  /// A phase writes `count` numbers from `to` on: the place of the first in the exchange. What
  /// follows in memory what the last call took follows it there, too.
  std::int32_t send(const float* to, std::int64_t count);
  /// The place of the first of the `count` numbers that now are to be at `from`, the others behind
  /// it; kBefore; or nothing, where some are here and some there.
  [[nodiscard]] std::optional<std::int32_t> find(const float* from, std::int64_t count) const;
  /// Whether some of what was sent to `place` is still what its memory is to hold.
  [[nodiscard]] bool lasts(std::int32_t place) const;
  /// The launch ends here: later ones find all numbers in memory.
  void end_launch() { live_.clear(); }

  /// Of the whole exchange, in whole lines.
  [[nodiscard]] std::int32_t floats() const;

 private:
  struct Range {
    const float* begin = nullptr;
    const float* end = nullptr;
    std::int32_t place = 0;  // of its first
    std::int32_t sent = 0;   // place of the first that it was sent with
  };

  std::vector<Range> live_;  // none overlaps another
  std::int32_t floats_ = 0;
};

}  // namespace sedpa::cuda
