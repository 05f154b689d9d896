#include "sedpa/format/printable.h"

#include <gtest/gtest.h>

namespace sedpa {
namespace {

TEST(Printable, KeepsReadableText) {
  EXPECT_EQ(printable("blk.0.attn_q.weight"), "\"blk.0.attn_q.weight\"");
  EXPECT_EQ(printable("Größe 大小 😀"), "\"Größe 大小 😀\"");
  EXPECT_EQ(printable(""), "\"\"");
}

TEST(Printable, EscapesWhatCouldBreakALine) {
  EXPECT_EQ(printable("a\nb"), "\"a\\x0ab\"");
  EXPECT_EQ(printable(std::string_view("\0\x1b[", 3)), "\"\\x00\\x1b[\"");
  EXPECT_EQ(printable("\xc2\x85"), "\"\\xc2\\x85\"");  // U+0085, next line
  EXPECT_EQ(printable("say \"hi\" \\"), "\"say \\\"hi\\\" \\\\\"");
  EXPECT_EQ(printable("\xff\xc3"), "\"\\xff\\xc3\"");
}

TEST(Printable, CutsLongText) {
  const std::string text(1000, 'x');
  EXPECT_EQ(printable(text), '"' + std::string(64, 'x') + "\"... (1000 bytes)");
}

// The boundaries of Unicode 15, table 3-7.
TEST(Utf8, WellFormed) {
  for (const char* text :
       {"", "a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(is_utf8(text)) << printable(text);
  }
}

TEST(Utf8, IllFormed) {
  for (const char* text :
       {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2\x41", "\xe0\x9f\xbf", "\xe1\x80",
        "\xed\xa0\x80", "\xef\xbf", "\xf0\x8f\xbf\xbf", "\xf0\x90\x80", "\xf4\x90\x80\x80", "\xf5",
        "\xff", "ab\xc3"}) {
    EXPECT_FALSE(is_utf8(text)) << printable(text);
  }
}

}  // namespace
}  // namespace sedpa
