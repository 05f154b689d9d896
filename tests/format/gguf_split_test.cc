// Split files as llama.cpp's gguf-split writes them: parts are numbered from 0 in the metadata and
// from 1 in the names.
#include <algorithm>

#include "sedpa/format/gguf.h"
#include "sedpa/format/gguf_writer.h"
#include "tests/format/support.h"

namespace sedpa {
namespace {

using test::expect_error;

struct Part {
  int number = 0;
  int count = 3;
  std::string tensor;
  int tensors = 3;
};

class SplitFile : public ::testing::Test {
 protected:
  void put(const std::string& name, const Part& part) const {
    const std::vector<float> values(4, static_cast<float>(part.number));
    GgufWriter writer;
    if (part.number == 0) writer.add_string("general.architecture", "llama");
    writer.add_u16("split.no", static_cast<std::uint16_t>(part.number));
    writer.add_u16("split.count", static_cast<std::uint16_t>(part.count));
    writer.add_i32("split.tensors.count", part.tensors);
    writer.add_tensor(part.tensor, Dtype::f32, {4}, std::as_bytes(std::span(values)));
    writer.write(dir_ / name);
  }
  void put_all() const {
    put("m-00001-of-00003.gguf", {.number = 0, .tensor = "a"});
    put("m-00002-of-00003.gguf", {.number = 1, .tensor = "b"});
    put("m-00003-of-00003.gguf", {.number = 2, .tensor = "c"});
  }
  void open() const { (void)GgufFile::open(first_); }

  test::TempDir dir_;
  std::string first_ = dir_ / "m-00001-of-00003.gguf";
};

TEST_F(SplitFile, IsReadAsOne) {
  put_all();
  const GgufFile file = GgufFile::open(first_);
  EXPECT_EQ(file.path(), first_);
  EXPECT_EQ(file.require_string("general.architecture"), "llama");
  ASSERT_EQ(file.tensors().size(), 3u);
  const TensorInfo& tensor = file.require_tensor("c");
  EXPECT_EQ(tensor.file->path(), dir_ / "m-00003-of-00003.gguf");
  const std::vector<float> twos(4, 2.0f);
  EXPECT_TRUE(std::ranges::equal(tensor.data, std::as_bytes(std::span(twos))));
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
    bytes += entry.file_size();
  }
  EXPECT_EQ(file.file_bytes(), bytes);
}

TEST_F(SplitFile, MissingPart) {
  put_all();
  std::filesystem::remove(dir_ / "m-00002-of-00003.gguf");
  expect_error([&] { open(); }, {"m-00002-of-00003.gguf", "No such file"});
}

TEST_F(SplitFile, TruncatedPart) {
  put_all();
  std::filesystem::resize_file(dir_ / "m-00003-of-00003.gguf", 60);
  expect_error([&] { open(); }, {"m-00003-of-00003.gguf", "truncated"});
}

TEST_F(SplitFile, LaterPartGiven) {
  put_all();
  expect_error([&] { (void)GgufFile::open(dir_ / "m-00002-of-00003.gguf"); },
               {"m-00002-of-00003.gguf", "part 2", "of 3", "first part"});
}

TEST_F(SplitFile, RenamedFirstPart) {
  put_all();
  std::filesystem::rename(first_, dir_ / "model.gguf");
  expect_error([&] { (void)GgufFile::open(dir_ / "model.gguf"); },
               {"model.gguf", "-00001-of-00003.gguf"});
}

TEST_F(SplitFile, CyclicLink) {
  put_all();
  std::filesystem::remove(dir_ / "m-00002-of-00003.gguf");
  std::filesystem::create_symlink(first_, dir_ / "m-00002-of-00003.gguf");
  expect_error([&] { open(); }, {"m-00002-of-00003.gguf", "split.no is 0, expected 1"});
}

TEST_F(SplitFile, PartsOutOfOrder) {
  put_all();
  put("m-00002-of-00003.gguf", {.number = 2, .tensor = "b"});
  expect_error([&] { open(); }, {"m-00002-of-00003.gguf", "split.no is 2, expected 1"});
}

TEST_F(SplitFile, PartOfAnotherSplit) {
  put_all();
  put("m-00003-of-00003.gguf", {.number = 2, .count = 4, .tensor = "c"});
  expect_error([&] { open(); }, {"m-00003-of-00003.gguf", "split.count is 4, expected 3"});
}

TEST_F(SplitFile, TensorInTwoParts) {
  put_all();
  put("m-00003-of-00003.gguf", {.number = 2, .tensor = "a"});
  expect_error([&] { open(); }, {"m-00001-of-00003.gguf", "\"a\"", "twice"});
}

TEST_F(SplitFile, WrongTensorCount) {
  put_all();
  put("m-00001-of-00003.gguf", {.number = 0, .tensor = "a", .tensors = 4});
  expect_error([&] { open(); }, {"3 tensors", "expected 4"});
}

TEST_F(SplitFile, WholeFileInTheClothesOfAPart) {
  put_all();
  GgufWriter writer;
  writer.write(dir_ / "m-00002-of-00003.gguf");
  expect_error([&] { open(); }, {"m-00002-of-00003.gguf", "no metadata \"split.no\""});
}

TEST_F(SplitFile, HugeCountsAndOnePart) {
  GgufWriter writer;
  writer.add_u64("split.count", std::uint64_t{1} << 60);
  writer.add_u16("split.no", 0);
  writer.write(first_);
  expect_error([&] { open(); }, {"split.count is 1152921504606846976", "99999"});
  put("single.gguf", {.number = 0, .count = 1, .tensor = "a", .tensors = 1});
  EXPECT_EQ(GgufFile::open(dir_ / "single.gguf").tensors().size(), 1u);
  const std::vector<std::byte> part = test::read_bytes(first_);
  expect_error([&] { (void)GgufFile::parse(part, "memory"); }, {"memory", "split"});
}

}  // namespace
}  // namespace sedpa
