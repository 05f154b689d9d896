#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace sedpa {

/// A Perl-compatible regular expression over UTF-8 with Unicode properties (PCRE2, compiled to
/// machine code where it can be). Immutable and shared freely between threads; what a match needs
/// to write lies in Scratch, one for each thread.
class Regex {
 public:
  /// Throws Error naming `name`, the pattern and the place of the mistake.
  Regex(std::string_view pattern, const std::string& name);

  struct Match {
    std::size_t begin = 0;
    std::size_t end = 0;
  };

  class Scratch {
   public:
    Scratch();

   private:
    friend class Regex;
    struct Free {
      void operator()(void* p) const;
    };
    struct FreeContext {
      void operator()(void* p) const;
    };
    struct FreeStack {
      void operator()(void* p) const;
    };
    std::unique_ptr<void, Free> data_;
    std::unique_ptr<void, FreeStack> stack_;
    std::unique_ptr<void, FreeContext> context_;
  };

  /// The first match in `text` at or after `from`, a character's beginning. `text` must be
  /// well-formed UTF-8 (it is not looked at again). Throws Error when matching exceeds its limits.
  [[nodiscard]] bool find(std::string_view text, std::size_t from, Scratch& scratch,
                          Match& match) const;

  [[nodiscard]] const std::string& pattern() const { return pattern_; }

 private:
  std::string pattern_;
  std::string name_;
  std::shared_ptr<const void> code_;
};

}  // namespace sedpa
