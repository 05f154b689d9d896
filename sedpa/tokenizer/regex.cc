#include "sedpa/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <new>

#include "sedpa/core/fail.h"
#include "sedpa/format/printable.h"

namespace sedpa {

namespace {

constexpr std::size_t kMaxPattern = std::size_t{1} << 16;
// Published patterns need neither: a word of a million characters stays far below both. They keep a
// hostile pattern from taking the machine.
constexpr std::uint32_t kMatchLimit = 50'000'000;
constexpr std::uint32_t kHeapLimitKib = 256 * 1024;
constexpr std::size_t kStackBytes = std::size_t{64} << 20;

std::string message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

void Regex::Scratch::Free::operator()(void* p) const {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(p));
}
void Regex::Scratch::FreeContext::operator()(void* p) const {
  pcre2_match_context_free(static_cast<pcre2_match_context*>(p));
}
void Regex::Scratch::FreeStack::operator()(void* p) const {
  pcre2_jit_stack_free(static_cast<pcre2_jit_stack*>(p));
}

Regex::Scratch::Scratch()
    : data_(pcre2_match_data_create(1, nullptr)),
      stack_(pcre2_jit_stack_create(32 * 1024, kStackBytes, nullptr)),
      context_(pcre2_match_context_create(nullptr)) {
  if (!data_ || !context_) throw std::bad_alloc();
  auto* context = static_cast<pcre2_match_context*>(context_.get());
  pcre2_set_match_limit(context, kMatchLimit);
  pcre2_set_heap_limit(context, kHeapLimitKib);
  // No stack (no machine code on this processor) is fine: it is then not used.
  pcre2_jit_stack_assign(context, nullptr, stack_.get());
}

Regex::Regex(std::string_view pattern, const std::string& name) : pattern_(pattern), name_(name) {
  if (pattern.size() > kMaxPattern) {
    fail("{}: a pattern of {} bytes, expected at most {}", name, pattern.size(), kMaxPattern);
  }
  // Oniguruma reads && in a class as an intersection; PCRE2 would take it for two characters.
  if (pattern.find("&&[") != std::string_view::npos) {
    fail("{}: pattern {}: class intersection (&&) is not supported", name, printable(pattern));
  }
  int code = 0;
  PCRE2_SIZE place = 0;
  // MULTILINE because ^ and $ mean lines in Oniguruma, whose dialect tokenizer.json is written in.
  pcre2_code* compiled = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &place, nullptr);
  if (compiled == nullptr) {
    fail("{}: pattern {} at byte {}: {}", name, printable(pattern), place, message(code));
  }
  code_ = std::shared_ptr<const void>(compiled, [](const void* p) {
    pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p)));
  });
  // An error here means no machine code: the interpreter then serves.
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
}

bool Regex::find(std::string_view text, std::size_t from, Scratch& scratch, Match& match) const {
  auto* data = static_cast<pcre2_match_data*>(scratch.data_.get());
  auto* context = static_cast<pcre2_match_context*>(scratch.context_.get());
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, context);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
    found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data,
                        context);
  }
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) {
    fail("{}: pattern {} on a text of {} bytes: {}", name_, printable(pattern_), text.size(),
         message(found));
  }
  const PCRE2_SIZE* place = pcre2_get_ovector_pointer(data);
  // \K in a look-ahead can put the beginning behind the end; such a match is empty for us.
  match.end = place[1];
  match.begin = place[0] <= place[1] ? place[0] : place[1];
  return true;
}

}  // namespace sedpa
