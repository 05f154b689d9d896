#include "sedpa/format/text_files.h"

#include <gtest/gtest.h>

#include "tests/format/support.h"

namespace sedpa {
namespace {

using test::expect_error;

constexpr std::size_t kPlenty = 1000;

TEST(TextFiles, AFileIsReadAsItStands) {
  const test::TempDir dir;
  EXPECT_EQ(read_text_files(dir.put("a.txt", "One.\r\nTwo.\xff"), kPlenty), "One.\r\nTwo.\xff\n\n");
  EXPECT_EQ(read_text_files(dir.put("b.txt", "One.\n\n"), kPlenty), "One.\n\n");
  EXPECT_EQ(read_text_files(dir.put("c.txt", ""), kPlenty), "");
}

TEST(TextFiles, EachLineOfAJsonlFileHasADocument) {
  const test::TempDir dir;
  const std::string path = dir.put("a.jsonl",
                                   "{\"text\": \"One.\\n\", \"url\": 7}\n"
                                   "\n"
                                   "{\"id\": [1], \"text\": \"\\u0422wo.\"}\r\n"
                                   "{\"text\": \"Three.\"}");
  EXPECT_EQ(read_text_files(path, kPlenty), "One.\n\n\n\u0422wo.\n\nThree.\n\n");
}

TEST(TextFiles, ADirectoryIsReadInTheOrderOfNames) {
  const test::TempDir dir;
  dir.put("b.txt", "Two.");
  dir.put("a.jsonl", "{\"text\": \"One.\"}\n");
  dir.put("c", "Three.");
  dir.put(".hidden", std::string_view("\0", 1));
  EXPECT_EQ(read_text_files(dir.path(), kPlenty), "One.\n\nTwo.\n\nThree.\n\n");
}

TEST(TextFiles, WhatIsBeyondTheLimitIsNotRead) {
  const test::TempDir dir;
  dir.put("a.jsonl", "{\"text\": \"0123456789\"}\nno JSON, never read\n");
  dir.put("b.txt", std::string_view("\0", 1));
  EXPECT_EQ(read_text_files(dir.path(), 4), "0123\n\n");
}

TEST(TextFiles, SayWhatIsWrongAndWhere) {
  const test::TempDir dir;
  const auto refused = [&](std::string_view name, std::string_view text,
                           std::initializer_list<std::string_view> parts) {
    const std::string path = dir.put(name, text);
    SCOPED_TRACE(text);
    expect_error([&] { (void)read_text_files(path, kPlenty); }, {path});
    expect_error([&] { (void)read_text_files(path, kPlenty); }, parts);
  };
  refused("a.jsonl", "{\"text\": \"x\"}\n{\"text\": 1}\n", {"line 2", "\"text\""});
  refused("a.jsonl", "{\"content\": \"x\"}\n", {"line 1", "\"text\""});
  refused("a.jsonl", "[\"x\"]\n", {"line 1", "object"});
  refused("a.jsonl", "{\"text\": \"x\"\n", {"line 1", "JSON"});
  refused("a.jsonl", "Once upon a time\n", {"line 1", "JSON"});
  refused("a.jsonl", "{\"text\": \"x\\u0000\"}\n", {"line 1", "byte 1 is zero"});
  refused("a.bin", std::string_view("GGUF\0\0", 6), {"is not text", "byte 4 is zero"});
  expect_error([&] { (void)read_text_files(dir / "none", kPlenty); }, {"none", "No such file"});
  const test::TempDir empty;
  expect_error([&] { (void)read_text_files(empty.path(), kPlenty); }, {"no text files"});
}

}  // namespace
}  // namespace sedpa
