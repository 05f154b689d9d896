#include "sedpa/format/mapped_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "sedpa/format/atomic_file.h"
#include "tests/format/support.h"

namespace sedpa {
namespace {

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, HoldsTheFilesBytesAndKeepsTheirAddress) {
  const test::TempDir dir;
  MappedFile file = MappedFile::open(dir.put("a", "some text"));
  EXPECT_EQ(text_of(file), "some text");
  const std::byte* const address = file.bytes().data();
  MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes().data(), address);
  MappedFile other = MappedFile::open(dir.put("b", ""));
  EXPECT_TRUE(other.bytes().empty());
  other = std::move(moved);
  EXPECT_EQ(text_of(other), "some text");
  EXPECT_EQ(other.path(), dir / "a");
}

TEST(MappedFile, FromBytes) {
  const std::vector<std::byte> bytes = {std::byte{1}, std::byte{2}};
  MappedFile file = MappedFile::from_bytes(bytes, "memory");
  const std::byte* const address = file.bytes().data();
  const MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes().data(), address);
  EXPECT_EQ(moved.bytes().size(), 2u);
  moved.drop(0, 2);
  EXPECT_EQ(moved.bytes()[1], std::byte{2});
}

TEST(MappedFile, NamesWhatCannotBeOpened) {
  const test::TempDir dir;
  test::expect_error([&] { (void)MappedFile::open(dir / "absent"); },
                     {dir / "absent", "No such file"});
  test::expect_error([&] { (void)MappedFile::open(dir.path()); }, {dir.path(), "is a directory"});
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  test::expect_error([&] { (void)MappedFile::open(dir / "pipe"); }, {"not a regular file"});
}

/// Kilobytes of file pages that this process has mapped in.
long resident_file_kilobytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with("RssFile:")) return std::stol(line.substr(8));
  }
  return -1;
}

TEST(MappedFile, DropGivesBackResidentPagesAndTheBytesStay) {
  const test::TempDir dir;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t size = page * 2000 + 100;
  const std::string text(size, 'x');
  const MappedFile file = MappedFile::open(dir.put("big", text));
  if (resident_file_kilobytes() < 0) GTEST_SKIP() << "no RssFile in /proc/self/status";
  ASSERT_EQ(text_of(file), text);
  const long before = resident_file_kilobytes();
  file.drop(1, size);
  const long after = resident_file_kilobytes();
  EXPECT_LT(after, before - static_cast<long>(1900 * page / 1024));
  EXPECT_EQ(text_of(file), text);
  file.drop(0, page / 2);  // no whole page
  file.drop(size, 10);     // beyond the end
  file.drop(page, ~std::uint64_t{0});
  EXPECT_EQ(text_of(file), text);
}

TEST(AtomicFile, AppearsOnCommitOnly) {
  const test::TempDir dir;
  const std::string path = dir.put("out", "old");
  {
    AtomicFile abandoned(path);
    abandoned.write("half");
  }
  EXPECT_EQ(text_of(MappedFile::open(path)), "old");
  AtomicFile file(path);
  file.write("new");
  EXPECT_EQ(text_of(MappedFile::open(path)), "old");
  file.commit();
  EXPECT_EQ(text_of(MappedFile::open(path)), "new");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
  test::expect_error([&] { AtomicFile directory(dir / ""); }, {"is a directory", "expected"});
  test::expect_error([&] { AtomicFile nowhere(dir / "no/such/place"); },
                     {"no/such/place", "cannot create"});
}

}  // namespace
}  // namespace sedpa
