// Reading: held against a file that the Python gguf package wrote (see make_quant_vectors.py).
// Writing: read back, and byte by byte for a small file laid out by hand from docs/gguf.md.
#include "sedpa/format/gguf.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "sedpa/format/gguf_writer.h"
#include "tests/format/gguf_layout.h"
#include "tests/format/support.h"

namespace sedpa {
namespace {

using test::expect_error;

class PythonFile : public ::testing::Test {
 protected:
  GgufFile file_ = GgufFile::open(test::data_path("quant_blocks.gguf"));
};

TEST_F(PythonFile, Scalars) {
  EXPECT_EQ(file_.version(), 3u);
  EXPECT_EQ(file_.require_string("general.architecture"), "none");
  EXPECT_EQ(file_.require_uint("test.u8"), 200u);
  EXPECT_EQ(file_.require_int("test.i8"), -100);
  EXPECT_EQ(file_.require_uint("test.u16"), 60000u);
  EXPECT_EQ(file_.require_int("test.i16"), -30000);
  EXPECT_EQ(file_.require_uint("test.u32"), 4000000000u);
  EXPECT_EQ(file_.require_int("test.u32"), 4000000000);
  EXPECT_EQ(file_.require_int("test.i32"), -2000000000);
  EXPECT_EQ(file_.require_uint("test.u64"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(file_.require_int("test.i64"), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(file_.require_float("test.f32"), 0.25);
  EXPECT_EQ(file_.require_float("test.f64"), 1e300);
  EXPECT_TRUE(file_.require_bool("test.bool"));
  EXPECT_EQ(file_.require_string("test.string"), "Größe, 大小");
}

TEST_F(PythonFile, Arrays) {
  EXPECT_EQ(file_.require_strings("test.strings"), (std::vector<std::string>{"", "a", "naïve"}));
  EXPECT_EQ(file_.require_ints("test.ints"), (std::vector<std::int64_t>{1, -2, 3}));
  EXPECT_EQ(file_.require_floats("test.floats"), (std::vector<double>{0.5, -1.5}));
  ASSERT_NE(file_.find_bools("test.bools"), nullptr);
  EXPECT_EQ(*file_.find_bools("test.bools"), (std::vector<bool>{true, false, true}));
}

TEST_F(PythonFile, AbsentKeys) {
  EXPECT_FALSE(file_.has("none"));
  EXPECT_FALSE(file_.find_uint("none"));
  EXPECT_FALSE(file_.find_int("none"));
  EXPECT_FALSE(file_.find_float("none"));
  EXPECT_FALSE(file_.find_bool("none"));
  EXPECT_FALSE(file_.find_string("none"));
  EXPECT_EQ(file_.find_strings("none"), nullptr);
  EXPECT_EQ(file_.find_floats("none"), nullptr);
  EXPECT_EQ(file_.find_ints("none"), nullptr);
  const auto message = {std::string_view("quant_blocks.gguf"), std::string_view("\"none\""),
                        std::string_view("expected")};
  expect_error([&] { (void)file_.require_uint("none"); }, message);
  expect_error([&] { (void)file_.require_int("none"); }, message);
  expect_error([&] { (void)file_.require_float("none"); }, message);
  expect_error([&] { (void)file_.require_bool("none"); }, message);
  expect_error([&] { (void)file_.require_string("none"); }, message);
  expect_error([&] { (void)file_.require_strings("none"); }, message);
  expect_error([&] { (void)file_.require_floats("none"); }, message);
  expect_error([&] { (void)file_.require_ints("none"); }, message);
}

TEST_F(PythonFile, WrongTypesNameFileKeyFoundAndExpected) {
  const auto wrong = [&](auto&& action, std::string_view key, std::string_view found,
                         std::string_view expected) {
    expect_error(action, {"quant_blocks.gguf", key, "is " + std::string(found),
                          "expected " + std::string(expected)});
  };
  wrong([&] { (void)file_.find_uint("test.string"); }, "test.string", "string", "an integer");
  wrong([&] { (void)file_.find_uint("test.f32"); }, "test.f32", "f32", "an integer");
  wrong([&] { (void)file_.find_uint("test.ints"); }, "test.ints", "array of i32", "an integer");
  wrong([&] { (void)file_.find_uint("test.i8"); }, "test.i8", "-100", "at least 0");
  wrong([&] { (void)file_.find_int("test.bool"); }, "test.bool", "bool", "an integer");
  wrong([&] { (void)file_.find_int("test.u64"); }, "test.u64", "18446744073709551615", "at most");
  wrong([&] { (void)file_.find_float("test.u32"); }, "test.u32", "u32", "a float");
  wrong([&] { (void)file_.find_bool("test.u8"); }, "test.u8", "u8", "a bool");
  wrong([&] { (void)file_.find_string("test.strings"); }, "test.strings", "array of string",
        "a string");
  wrong([&] { (void)file_.find_strings("test.string"); }, "test.string", "string",
        "an array of strings");
  wrong([&] { (void)file_.find_floats("test.ints"); }, "test.ints", "array of i32",
        "an array of floats");
  wrong([&] { (void)file_.find_ints("test.floats"); }, "test.floats", "array of f32",
        "an array of integers");
}

TEST_F(PythonFile, Tensors) {
  EXPECT_EQ(file_.tensors().size(), 18u);
  EXPECT_EQ(file_.find_tensor("absent"), nullptr);
  expect_error([&] { (void)file_.require_tensor("absent"); },
               {"quant_blocks.gguf", "\"absent\"", "18"});
  const TensorInfo& tensor = file_.require_tensor("stored.q6_k");
  EXPECT_EQ(tensor.dtype, Dtype::q6_k);
  EXPECT_EQ(tensor.rows(), 2);
  EXPECT_EQ(tensor.cols(), 512);
  EXPECT_EQ(tensor.shape_text(), "[2, 512]");
  EXPECT_EQ(tensor.data.size(), 2u * 2 * 210);
  ASSERT_NE(tensor.file, nullptr);
  EXPECT_EQ(tensor.file->bytes().data() + tensor.offset, tensor.data.data());
  const GgufFile moved = std::move(file_);
  EXPECT_EQ(moved.require_tensor("stored.q6_k").file->path(), moved.path());
}

TEST(GgufWriter, LaysAFileOutAsTheFormatSays) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  GgufWriter writer;
  writer.add_u32("general.alignment", 64);
  writer.add_strings("names", {"x", ""});
  writer.add_tensor("w", Dtype::f32, {2, 3}, std::as_bytes(std::span(values)));
  test::GgufLayout want(1, 2);
  want.string("general.alignment").u32(4).u32(64);
  want.string("names").u32(9).u32(8).u64(2).string("x").string("");
  want.tensor("w", {3, 2}, 0, 0).data(0, 64);
  for (const float value : values) want.u32(std::bit_cast<std::uint32_t>(value));
  want.data(0, 64);
  EXPECT_TRUE(std::ranges::equal(writer.bytes(), want.bytes()));
}

TEST(GgufWriter, EverythingReadsBack) {
  const GgufFile source = GgufFile::open(test::data_path("quant_blocks.gguf"));
  GgufWriter writer;
  for (const GgufMetadata& entry : source.metadata()) writer.add(entry);
  for (const TensorInfo& tensor : source.tensors()) {
    writer.add_tensor(tensor.name, tensor.dtype, tensor.shape, tensor.data);
  }
  const test::TempDir dir;
  writer.write(dir / "copy.gguf");
  const GgufFile copy = GgufFile::open(dir / "copy.gguf");
  ASSERT_EQ(copy.metadata().size(), source.metadata().size());
  for (std::size_t i = 0; i < copy.metadata().size(); ++i) {
    EXPECT_EQ(copy.metadata()[i].key, source.metadata()[i].key);
    EXPECT_EQ(copy.metadata()[i].type_text(), source.metadata()[i].type_text());
    EXPECT_EQ(copy.metadata()[i].value, source.metadata()[i].value) << copy.metadata()[i].key;
  }
  ASSERT_EQ(copy.tensors().size(), source.tensors().size());
  for (std::size_t i = 0; i < copy.tensors().size(); ++i) {
    const TensorInfo& a = copy.tensors()[i];
    const TensorInfo& b = source.tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.dtype, b.dtype);
    EXPECT_EQ(a.shape, b.shape);
    EXPECT_TRUE(std::ranges::equal(a.data, b.data)) << a.name;
  }
  EXPECT_EQ(writer.bytes(), test::read_bytes(dir / "copy.gguf"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(GgufWriter, RowsFromASource) {
  GgufWriter writer;
  writer.add_tensor("w", Dtype::bf16, {2, 3, 5}, [](std::int64_t row, std::span<std::byte> out) {
    ASSERT_EQ(out.size(), 10u);
    std::ranges::fill(out, static_cast<std::byte>(row));
  });
  const GgufFile file = GgufFile::parse(writer.bytes(), "memory");
  const TensorInfo& tensor = file.require_tensor("w");
  ASSERT_EQ(tensor.data.size(), 60u);
  for (std::size_t i = 0; i < 60; ++i) EXPECT_EQ(tensor.data[i], static_cast<std::byte>(i / 10));
}

TEST(GgufWriter, RefusesWhatCannotBeWritten) {
  GgufWriter writer;
  writer.add_u32("key", 1);
  const std::vector<std::byte> bytes(64);
  expect_error([&] { writer.add_bool("key", true); }, {"\"key\"", "already"});
  expect_error(
      [&] {
        writer.add({"k", GgufType::u8, GgufType::u8, std::uint64_t{256}});
      },
      {"\"k\"", "u8"});
  expect_error([&] { writer.add({"k", GgufType::i8, GgufType::i8, std::int64_t{-129}}); }, {"i8"});
  expect_error([&] { writer.add({"k", GgufType::u32, GgufType::u32, 1.0}); }, {"u32"});
  expect_error([&] { writer.add_i32s("k", {1, std::int64_t{1} << 31}); }, {"array of i32"});
  writer.add_tensor("t", Dtype::q8_0, {1, 32}, std::span(bytes).first(34));
  expect_error([&] { writer.add_tensor("t", Dtype::f32, {1}, std::span(bytes).first(4)); },
               {"\"t\"", "already"});
  expect_error([&] { writer.add_tensor("u", Dtype::q8_0, {1, 33}, bytes); }, {"[1, 33]", "32"});
  expect_error([&] { writer.add_tensor("u", Dtype::f32, {4, 5}, bytes); }, {"64 bytes", "80"});
  expect_error([&] { writer.add_tensor("u", Dtype::f32, {}, bytes); }, {"rank"});
  expect_error([&] { writer.add_tensor("u", Dtype::f32, {1, 1, 1, 1, 1}, bytes); }, {"rank"});
  expect_error([&] { writer.add_tensor("u", Dtype::f32, {0, 4}, bytes); }, {"[0, 4]"});
  const std::int64_t huge = std::int64_t{1} << 62;
  expect_error([&] { writer.add_tensor("u", Dtype::f32, {huge, huge}, bytes); }, {"\"u\""});
  expect_error([&] { writer.add_tensor("u", Dtype::f32, {huge}, bytes); }, {"\"u\""});
}

TEST(GgufFile, VersionTwoAndVocabularyOnly) {
  GgufWriter writer;
  writer.add_strings("tokenizer.ggml.tokens", {"a", "b"});
  std::vector<std::byte> bytes = writer.bytes();
  EXPECT_EQ(bytes.back(), std::byte{'b'});  // there is no data to align
  bytes[4] = std::byte{2};
  const GgufFile file = GgufFile::parse(bytes, "vocabulary");
  EXPECT_EQ(file.version(), 2u);
  EXPECT_TRUE(file.tensors().empty());
  EXPECT_EQ(file.require_strings("tokenizer.ggml.tokens").size(), 2u);
}

}  // namespace
}  // namespace sedpa
