#include "sedpa/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "sedpa/core/fail.h"
#include "sedpa/tokenizer/utf8.h"

namespace sedpa {

namespace {

utf8proc_option_t options(UnicodeForm form) {
  switch (form) {
    case UnicodeForm::nfc:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    case UnicodeForm::nfd:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    case UnicodeForm::nfkc:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
    case UnicodeForm::nfkd:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  }
  return UTF8PROC_STABLE;
}

void append_form(std::string_view run, UnicodeForm form, std::string& out) {
  utf8proc_uint8_t* text = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
                   static_cast<utf8proc_ssize_t>(run.size()), &text, options(form));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(text, &std::free);
  if (size == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
  if (size < 0) fail("Unicode normalisation of {} bytes: {}", run.size(), utf8proc_errmsg(size));
  out.append(reinterpret_cast<const char*>(text), static_cast<std::size_t>(size));
}

/// `on_run` for each well-formed stretch, `on_broken` for each byte between them.
template <class OnRun, class OnBroken>
void for_each_run(std::string_view text, OnRun&& on_run, OnBroken&& on_broken) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t run = utf8_run(text, i);
    if (run > 0) on_run(text.substr(i, run));
    i += run;
    if (i < text.size()) on_broken(text[i++]);
  }
}

std::string applied(UnicodeForm form, std::string text) {
  const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
  if (ascii) return text;  // all forms leave ASCII as it is
  std::string out;
  out.reserve(text.size());
  for_each_run(
      text, [&](std::string_view run) { append_form(run, form, out); },
      [&](char broken) { out += broken; });
  return out;
}

std::string applied(const PrependStep& step, std::string text) {
  if (!text.empty()) text.insert(0, step.text);
  return text;
}

std::string applied(const ReplaceTextStep& step, std::string text) {
  if (step.from.empty()) return text;
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t next = std::min(text.find(step.from, i), text.size());
    out.append(text, i, next - i);
    if (next < text.size()) out += step.to;
    i = next < text.size() ? next + step.from.size() : next;
  }
  return out;
}

std::string applied(const ReplacePatternStep& step, std::string text) {
  std::string out;
  out.reserve(text.size());
  Regex::Scratch scratch;
  for_each_run(
      text,
      [&](std::string_view run) {
        std::size_t done = 0;
        std::size_t from = 0;
        Regex::Match match;
        while (from <= run.size() && step.from.find(run, from, scratch, match)) {
          out += run.substr(done, match.begin - done);
          if (match.end > match.begin) out += step.to;
          done = match.end;
          if (match.end == run.size()) break;
          from = match.end > match.begin ? match.end : match.end + utf8_character(run, match.end);
        }
        out += run.substr(done);
      },
      [&](char broken) { out += broken; });
  return out;
}

std::string applied(const StripStep& step, std::string text) {
  if (step.right) text.resize(text.size() - white_space(text, true));
  if (step.left) text.erase(0, white_space(text, false));
  return text;
}

bool is_white(std::string_view character) {
  if (character.size() == 1) {
    return character[0] == ' ' || (character[0] >= '\t' && character[0] <= '\r');
  }
  // The characters with the property White_Space beyond ASCII.
  static constexpr std::string_view kWhite[] = {"\u0085", "\u00A0", "\u1680", "\u2000", "\u2001",
                                                "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
                                                "\u2007", "\u2008", "\u2009", "\u200A", "\u2028",
                                                "\u2029", "\u202F", "\u205F", "\u3000"};
  return std::find(std::begin(kWhite), std::end(kWhite), character) != std::end(kWhite);
}

}  // namespace

std::size_t white_space(std::string_view text, bool at_end) {
  std::size_t count = 0;
  while (count < text.size()) {
    std::size_t length = 1;
    std::size_t begin = count;
    if (at_end) {
      while (length < 4 && length < text.size() - count &&
             (text[text.size() - count - length] & 0xC0) == 0x80) {
        ++length;
      }
      begin = text.size() - count - length;
    }
    const std::size_t whole = utf8_character(text, begin);
    if (whole == 0 || (at_end && whole != length)) break;
    if (!is_white(text.substr(begin, whole))) break;
    count += whole;
  }
  return count;
}

std::string Normalizer::apply(std::string_view text) const {
  std::string result(text);
  for (const NormalizerStep& step : steps_) {
    result = std::visit([&](const auto& known) { return applied(known, std::move(result)); }, step);
  }
  return result;
}

}  // namespace sedpa
