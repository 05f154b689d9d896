#include "sedpa/tokenizer/pretokenizer.h"

#include <algorithm>

#include "sedpa/tokenizer/byte_alphabet.h"
#include "sedpa/tokenizer/spaces.h"
#include "sedpa/tokenizer/utf8.h"

namespace sedpa {

namespace {

/// Gives out the stretches of one piece as a behaviour wants them.
class Cutter {
 public:
  Cutter(SplitBehavior behavior, std::string_view piece, std::vector<std::string_view>& out)
      : behavior_(behavior), piece_(piece), out_(out) {}

  void add(std::size_t begin, std::size_t end, bool matched) {
    if (begin == end) return;
    switch (behavior_) {
      case SplitBehavior::removed:
        if (!matched) out_.push_back(piece_.substr(begin, end - begin));
        return;
      case SplitBehavior::isolated:
        out_.push_back(piece_.substr(begin, end - begin));
        return;
      case SplitBehavior::merged_with_previous:
        extend(begin, end, matched && !last_matched_);
        break;
      case SplitBehavior::merged_with_next:
        extend(begin, end, !matched && last_matched_);
        break;
      case SplitBehavior::contiguous:
        extend(begin, end, matched == last_matched_);
        break;
    }
    last_matched_ = matched;
  }

 private:
  void extend(std::size_t begin, std::size_t end, bool join) {
    if (join && open_) {
      out_.back() = piece_.substr(open_begin_, end - open_begin_);
    } else {
      out_.push_back(piece_.substr(begin, end - begin));
      open_begin_ = begin;
    }
    open_ = true;
  }

  SplitBehavior behavior_;
  std::string_view piece_;
  std::vector<std::string_view>& out_;
  std::size_t open_begin_ = 0;
  bool open_ = false;
  bool last_matched_ = false;
};

/// One well-formed stretch of a piece.
void split_run(const SplitStep& step, std::string_view run, Regex::Scratch& scratch,
               std::vector<std::string_view>& out) {
  Cutter cutter(step.behavior, run, out);
  std::size_t done = 0;
  std::size_t from = 0;
  Regex::Match match;
  while (from <= run.size() && step.regex.find(run, from, scratch, match)) {
    cutter.add(done, match.begin, step.invert);
    cutter.add(match.begin, match.end, !step.invert);
    done = match.end;
    // An empty match cuts where it stands; the next search begins one character later.
    from = match.end > match.begin ? match.end
           : match.end < run.size()
               ? match.end + std::max<std::size_t>(utf8_character(run, match.end), 1)
               : run.size() + 1;
  }
  cutter.add(done, run.size(), step.invert);
}

void apply(const SplitStep& step, bool, Pretokenizer::Pieces& pieces) {
  for (const std::string_view piece : pieces.views) {
    for (std::size_t i = 0; i < piece.size();) {
      const std::size_t run = utf8_run(piece, i);
      if (run > 0) split_run(step, piece.substr(i, run), pieces.scratch, pieces.next);
      i += run;
      std::size_t broken = 0;
      while (i + broken < piece.size() && utf8_character(piece, i + broken) == 0) ++broken;
      if (broken > 0) pieces.next.push_back(piece.substr(i, broken));
      i += broken;
    }
  }
}

void apply(const MetaspaceStep& step, bool at_start, Pretokenizer::Pieces& pieces) {
  bool first = at_start;
  for (const std::string_view piece : pieces.views) {
    const bool prefix =
        step.prefix == SpacePrefix::always || (step.prefix == SpacePrefix::first && first);
    first = false;
    std::string& text = pieces.owned.emplace_back();
    append_metaspaced(piece, text);
    if (prefix && !text.starts_with(kMetaspace)) text.insert(0, kMetaspace);
    const std::string_view whole = text;
    std::size_t begin = 0;
    while (step.split) {
      const std::size_t next = whole.find(kMetaspace, begin + 1);  // never empty pieces
      if (next == std::string_view::npos) break;
      pieces.next.push_back(whole.substr(begin, next - begin));
      begin = next;
    }
    pieces.next.push_back(whole.substr(begin));
  }
}

void apply(const PrefixSpaceStep&, bool, Pretokenizer::Pieces& pieces) {
  for (const std::string_view piece : pieces.views) {
    if (piece.starts_with(' ')) {
      pieces.next.push_back(piece);
    } else {
      std::string& text = pieces.owned.emplace_back(1, ' ');
      text += piece;
      pieces.next.push_back(text);
    }
  }
}

void apply(const SpellBytesStep&, bool, Pretokenizer::Pieces& pieces) {
  for (const std::string_view piece : pieces.views) {
    std::string& text = pieces.owned.emplace_back();
    spell_bytes(piece, text);
    pieces.next.push_back(text);
  }
}

}  // namespace

bool Pretokenizer::spells() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const PretokenizerStep& step) {
    return std::holds_alternative<SpellBytesStep>(step);
  });
}

void Pretokenizer::split(std::string_view text, bool at_start, Pieces& pieces) const {
  pieces.owned.clear();
  pieces.views.assign(text.empty() ? 0 : 1, text);
  for (const PretokenizerStep& step : steps_) {
    pieces.next.clear();
    std::visit([&](const auto& known) { apply(known, at_start, pieces); }, step);
    std::swap(pieces.views, pieces.next);
  }
}

}  // namespace sedpa
