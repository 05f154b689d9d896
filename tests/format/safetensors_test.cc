// Reading is held against a file that the safetensors package wrote (make_quant_vectors.py);
// writing is read back, and the bytes of a small file are laid out by hand.
#include "sedpa/format/safetensors.h"

#include <algorithm>
#include <cstring>

#include "sedpa/format/quant_blocks.h"
#include "tests/format/support.h"

namespace sedpa {
namespace {

using test::expect_error;

/// A file of `header`, padded to no length, and `data` zero bytes.
std::vector<std::byte> file_of(std::string_view header, std::size_t data) {
  const std::uint64_t length = header.size();
  std::vector<std::byte> bytes(8 + header.size() + data);
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

SafetensorsFile parse(std::string_view header, std::size_t data) {
  return SafetensorsFile::parse(file_of(header, data), "bad.safetensors");
}

void expect_refused(std::string_view header, std::size_t data,
                    std::initializer_list<std::string_view> parts) {
  SCOPED_TRACE(header.substr(0, 200));
  expect_error([&] { (void)parse(header, data); }, {"bad.safetensors: "});
  expect_error([&] { (void)parse(header, data); }, parts);
}

TEST(Safetensors, ReadsThePythonPackagesFile) {
  const SafetensorsFile file = SafetensorsFile::open(test::data_path("quant_blocks.safetensors"));
  ASSERT_EQ(file.metadata().size(), 1u);
  EXPECT_EQ(file.metadata()[0], std::make_pair(std::string("seed"), std::string("20240917")));
  EXPECT_EQ(file.tensors().size(), 15u);
  EXPECT_EQ(file.find_tensor("absent"), nullptr);
  for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
    const TensorInfo* const half = file.find_tensor("half." + std::string(name(dtype)));
    const TensorInfo* const wide = file.find_tensor("expected." + std::string(name(dtype)));
    ASSERT_TRUE(half != nullptr && wide != nullptr);
    EXPECT_EQ(half->dtype, dtype);
    EXPECT_EQ(half->shape, (std::vector<std::int64_t>{2, 512}));
    std::vector<float> values(1024);
    dequantize_row(dtype, half->data.data(), 1024, values.data());
    EXPECT_EQ(std::memcmp(values.data(), wide->data.data(), wide->data.size()), 0);
  }
}

TEST(Safetensors, WriterLaysAFileOutAsTheFormatSays) {
  const std::vector<float> values = {1, 2};
  SafetensorsWriter writer;
  writer.add_metadata("format", "pt");
  writer.add_tensor("a", Dtype::f32, {2, 1}, std::as_bytes(std::span(values)));
  const std::vector<std::byte> bytes = writer.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string_view header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}})";
  EXPECT_EQ(text.substr(8, header.size()), header);
  EXPECT_EQ(bytes.size() % 8, 0u);
  EXPECT_EQ(std::memcmp(bytes.data() + bytes.size() - 8, values.data(), 8), 0);
}

TEST(Safetensors, WrittenFilesReadBack) {
  const test::TempDir dir;
  const std::vector<std::byte> data(24, std::byte{7});
  SafetensorsWriter writer;
  writer.add_metadata("a \"key\"", "wörd");
  writer.add_tensor("x", Dtype::bf16, {3, 4}, data);
  writer.add_tensor("scalar", Dtype::f32, {}, std::span(data).first(4));
  writer.write(dir / "out.safetensors");
  const SafetensorsFile file = SafetensorsFile::open(dir / "out.safetensors");
  EXPECT_EQ(file.metadata()[0].second, "wörd");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_TRUE(std::ranges::equal(file.find_tensor("x")->data, data));
  EXPECT_EQ(file.find_tensor("scalar")->count(), 1);
  EXPECT_EQ(writer.bytes(), test::read_bytes(dir / "out.safetensors"));
  expect_error([&] { writer.add_tensor("x", Dtype::f16, {12}, data); }, {"\"x\"", "already"});
  expect_error([&] { writer.add_tensor("y", Dtype::f16, {11}, data); }, {"\"y\"", "24 bytes"});
  expect_error([&] { writer.add_tensor("y", Dtype::q8_0, {32}, data); }, {"q8_0"});
}

constexpr std::string_view kGood = R"({"t":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";

TEST(HostileSafetensors, TruncatedAtEveryByte) {
  const std::vector<std::byte> bytes = file_of(kGood, 24);
  EXPECT_EQ(SafetensorsFile::parse(bytes, "good").tensors().size(), 1u);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    expect_error(
        [&] { (void)SafetensorsFile::parse(std::span(bytes).first(size), "bad.safetensors"); },
        {"bad.safetensors: "});
  }
}

TEST(HostileSafetensors, HeaderLength) {
  for (const std::uint64_t length :
       {~std::uint64_t{0}, std::uint64_t{1} << 63, std::uint64_t{100'000'001}, std::uint64_t{9}}) {
    std::vector<std::byte> bytes(16);
    std::memcpy(bytes.data(), &length, 8);
    expect_error([&] { (void)SafetensorsFile::parse(bytes, "bad"); },
                 {"bad: the header takes", "expected at most 8"});
  }
}

TEST(HostileSafetensors, NotTheRightJson) {
  expect_refused("", 0, {"not valid JSON"});
  expect_refused("{", 0, {"not valid JSON"});
  expect_refused("[]", 0, {"array", "expected an object"});
  expect_refused("1", 0, {"expected an object"});
  expect_refused("null", 0, {"expected an object"});
  expect_refused("{} {}", 0, {"not valid JSON"});
  expect_refused(R"({"t":1})", 0, {"\"t\"", "expected an object"});
  expect_refused(R"({"t":[]})", 0, {"\"t\"", "expected an object"});
  expect_refused("{\"\xff\":{}}", 0, {"not valid JSON"});
  expect_refused(std::string(100000, '['), 0, {"expected an object"});
  expect_refused(R"({"__metadata__":{"a":1}})", 0, {"__metadata__", "\"a\"", "strings"});
  expect_refused(R"({"__metadata__":{"a":{}}})", 0, {"__metadata__", "strings"});
}

TEST(HostileSafetensors, Fields) {
  expect_refused(R"({"t":{}})", 0, {"\"t\"", "no dtype"});
  expect_refused(R"({"t":{"dtype":"F32"}})", 0, {"no shape"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[1]}})", 4, {"no data_offsets"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, {"data_offsets"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, {"third"});
  expect_refused(R"({"t":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8,
                 {"\"t\"", "\"I64\"", "F32, F16, BF16"});
  expect_refused(R"({"t":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", 1,
                 {"\"F8_E4M3\""});
  expect_refused(R"({"t":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4, {"\"dtype\""});
  expect_refused(R"({"t":{"dtype":"F32","shape":"1","data_offsets":[0,4]}})", 4, {"\"shape\""});
  expect_refused(R"({"t":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, {"\"shape\""});
  expect_refused(R"({"t":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, {"fraction"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, {"negative"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":"x"}})", 4,
                 {"\"extra\""});
  expect_refused(R"({"t":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
                 {"\"dtype\""});
  expect_refused(R"({"t":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4,
                 {"\"shape\""});
}

TEST(HostileSafetensors, ShapesAndOffsets) {
  expect_refused(R"({"t":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}})", 4, {"rank"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0, {"dimension 0"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4,
                 {"dimension 18446744073709551615"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}})", 4,
                 {"fraction"});
  // 2^62 numbers of 4 bytes: 2^64 wraps to 0.
  expect_refused(R"({"t":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0,
                 {"[4611686018427387904]", "size of its shape"});
  expect_refused(R"({"t":{"dtype":"F16","shape":[4294967296,4294967296,2],"data_offsets":[0,0]}})",
                 0, {"size of its shape"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, {"4 bytes"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, {"4 to 0"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, {"0 to 8", "4"});
  expect_refused(
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}})",
      4, {"18446744073709551612"});
}

TEST(HostileSafetensors, HolesOverlapsAndDoubles) {
  expect_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8,
                 {"end of the file"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, {"\"t\" begins"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                 R"("u":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                 12, {"\"u\" begins"});
  expect_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                 R"("t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                 8, {"\"t\"", "twice"});
}

class Checkpoint : public ::testing::Test {
 protected:
  void put(const std::string& file, const std::vector<std::string>& names) const {
    const std::vector<float> values(4, static_cast<float>(names.size()));
    SafetensorsWriter writer;
    for (const std::string& name : names) {
      writer.add_tensor(name, Dtype::f32, {2, 2}, std::as_bytes(std::span(values)));
    }
    writer.write(dir_ / file);
  }
  SafetensorsCheckpoint open() const { return SafetensorsCheckpoint::open(dir_.path()); }

  test::TempDir dir_;
};

TEST_F(Checkpoint, OneFile) {
  put("model.safetensors", {"a", "b"});
  EXPECT_EQ(open().tensors().size(), 2u);
  EXPECT_EQ(open().path(), dir_.path());
  EXPECT_EQ(SafetensorsCheckpoint::open(dir_ / "model.safetensors").require_tensor("b").rows(), 2);
  expect_error([&] { (void)open().require_tensor("c"); }, {dir_.path(), "\"c\"", "2"});
}

TEST_F(Checkpoint, Shards) {
  put("model-00001-of-00002.safetensors", {"a", "not in the index"});
  put("model-00002-of-00002.safetensors", {"b"});
  dir_.put("model.safetensors.index.json",
           R"({"metadata":{"total_size":48},"weight_map":{
               "b":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors"}})");
  const SafetensorsCheckpoint checkpoint = open();
  ASSERT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.find_tensor("not in the index"), nullptr);
  EXPECT_EQ(checkpoint.require_tensor("b").file->path(), dir_ / "model-00002-of-00002.safetensors");
  EXPECT_EQ(checkpoint.require_tensor("a").data.size(), 16u);
  EXPECT_GT(checkpoint.file_bytes(), 48u);
}

TEST_F(Checkpoint, BrokenShards) {
  const auto index = [&](std::string_view text) { dir_.put("model.safetensors.index.json", text); };
  index(R"({"weight_map":{"a":"gone.safetensors"}})");
  expect_error([&] { (void)open(); }, {"gone.safetensors", "No such file"});
  put("one.safetensors", {"a"});
  index(R"({"weight_map":{"b":"one.safetensors"}})");
  expect_error([&] { (void)open(); }, {"one.safetensors", "\"b\"", "index.json"});
  for (const char* name : {"../one.safetensors", "/etc/passwd", "..", "", "a\\\\b", "a\\u0000b"}) {
    index(std::string(R"({"weight_map":{"a":")") + name + "\"}}");
    expect_error([&] { (void)open(); }, {"index.json", "\"a\"", "beside it"});
  }
  index(R"({"weight_map":{"a":1}})");
  expect_error([&] { (void)open(); }, {"\"a\"", "number", "file name"});
  index(R"({"weight_map":[]})");
  expect_error([&] { (void)open(); }, {"weight_map"});
  index("[]");
  expect_error([&] { (void)open(); }, {"weight_map"});
  index("{");
  expect_error([&] { (void)open(); }, {"index.json", "not valid JSON"});
  index(std::string(1000, '['));
  expect_error([&] { (void)open(); }, {"index.json", "nested deeper"});
  index("");
  expect_error([&] { (void)open(); }, {"index.json", "not valid JSON"});
}

TEST_F(Checkpoint, NothingToRead) {
  expect_error([&] { (void)open(); }, {dir_.path(), "model.safetensors"});
  dir_.put("pytorch_model.bin", "x");
  expect_error([&] { (void)open(); }, {"pytorch_model.bin is not read"});
  expect_error([&] { (void)SafetensorsCheckpoint::open(dir_ / "absent"); }, {"absent"});
}

}  // namespace
}  // namespace sedpa
