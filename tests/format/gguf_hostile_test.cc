// Files that lie: every length, offset, count, rank and type of a GGUF file, wrong in turn.
#include <algorithm>
#include <random>

#include "sedpa/format/gguf.h"
#include "sedpa/format/gguf_writer.h"
#include "tests/format/gguf_layout.h"
#include "tests/format/support.h"

namespace sedpa {
namespace {

using test::expect_error;
using Bytes = test::GgufLayout;

void expect_refused(std::span<const std::byte> bytes,
                    std::initializer_list<std::string_view> parts) {
  expect_error([&] { (void)GgufFile::parse(bytes, "bad.gguf"); }, parts);
}

/// An honest file with a bit of everything.
std::vector<std::byte> honest_file() {
  static const std::vector<float> values(96, 0.5f);
  GgufWriter writer;
  writer.add_string("general.architecture", "llama");
  writer.add_u32("llama.block_count", 2);
  writer.add_f32("llama.epsilon", 1e-5f);
  writer.add_bool("flag", true);
  writer.add_strings("tokens", {"a", "bc", ""});
  writer.add_f32s("scores", {0.5, -1});
  writer.add_i32s("types", {1, 2, 3});
  writer.add_tensor("a", Dtype::f32, {3, 32}, std::as_bytes(std::span(values)));
  writer.add_tensor("b", Dtype::q8_0, {2, 32}, std::as_bytes(std::span(values)).first(68));
  return writer.bytes();
}

TEST(HostileGguf, TruncatedAtEveryByte) {
  const std::vector<std::byte> bytes = honest_file();
  ASSERT_EQ(GgufFile::parse(bytes, "good").tensors().size(), 2u);
  const std::size_t needed = bytes.size() - (96 - 68);  // but for the padding at the end
  for (std::size_t size = 0; size < needed; ++size) {
    expect_refused(std::span(bytes).first(size), {"bad.gguf: ", "bytes"});
  }
  EXPECT_EQ(GgufFile::parse(std::span(bytes).first(needed), "good").tensors().size(), 2u);
}

TEST(HostileGguf, AnyByteChangedNeverBreaksMoreThanTheFile) {
  const std::vector<std::byte> bytes = honest_file();
  std::size_t refused = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (const int change : {1, 0x80, 0xff}) {
      std::vector<std::byte> bad = bytes;
      bad[i] ^= static_cast<std::byte>(change);
      try {
        const GgufFile file = GgufFile::parse(bad, "bad.gguf");
        for (const TensorInfo& tensor : file.tensors()) {
          ASSERT_LE(tensor.offset + tensor.data.size(), bad.size());
        }
      } catch (const Error& error) {
        ++refused;
        EXPECT_TRUE(std::string_view(error.what()).starts_with("bad.gguf: ")) << error.what();
      }
    }
  }
  EXPECT_GT(refused, 100u);
}

TEST(HostileGguf, MagicVersionAndByteOrder) {
  std::vector<std::byte> bytes = honest_file();
  expect_refused(std::span<const std::byte>(), {"truncated", "magic"});
  bytes[0] = std::byte{'X'};
  expect_refused(bytes, {"not a GGUF file", "0x46554758"});
  expect_refused(Bytes(0, 0, 1), {"version 1", "2 or 3"});
  expect_refused(Bytes(0, 0, 4), {"version 4", "2 or 3"});
  expect_refused(Bytes(0, 0, 0), {"version 0", "2 or 3"});
  expect_refused(Bytes(0, 0, 0x03000000), {"big-endian", "expected little-endian"});
  bytes = honest_file();
  std::reverse(bytes.begin(), bytes.begin() + 4);
  expect_refused(bytes, {"big-endian", "expected little-endian"});
}

TEST(HostileGguf, CountsBeyondTheFile) {
  const std::uint64_t huge = std::uint64_t{1} << 60;
  expect_refused(Bytes(huge, 0), {"1152921504606846976 tensors", "bytes left"});
  expect_refused(Bytes(0, huge), {"1152921504606846976 metadata entries", "bytes left"});
  expect_refused(Bytes(~0ull, ~0ull), {"bad.gguf"});
  expect_refused(Bytes(0, 1).u64(huge).u64(0), {"metadata key", "needs 1152921504606846976"});
  expect_refused(Bytes(0, 1).u64(~0ull).u64(0), {"metadata key"});
  for (const std::uint32_t element : {0u, 1u, 4u, 7u, 8u, 10u, 12u}) {
    for (const std::uint64_t count : {huge, ~std::uint64_t{0}, std::uint64_t{100}}) {
      expect_refused(Bytes(0, 1).string("k").u32(9).u32(element).u64(count),
                     {"array elements", "bytes left"});
    }
  }
  expect_refused(Bytes(0, 1).string("k").u32(8).u64(huge), {"metadata string"});
  expect_refused(Bytes(0, 1).string("k").u32(9).u32(8).u64(1).u64(huge), {"string of an array"});
  expect_refused(Bytes(1, 0).u64(huge).data(100), {"tensor's name"});
}

TEST(HostileGguf, KeysAndTypes) {
  expect_refused(Bytes(0, 1).string("").u32(4).u32(0), {"key of metadata entry 0"});
  expect_refused(Bytes(0, 1).string("\xff\xfe").u32(4).u32(0), {"\\xff\\xfe", "UTF-8"});
  expect_refused(Bytes(0, 1).string(std::string(65536, 'k')).u32(4).u32(0), {"65536", "65535"});
  expect_refused(Bytes(0, 1).string("k").u32(13).u32(0), {"\"k\"", "type 13", "0 to 12"});
  expect_refused(Bytes(0, 1).string("k").u32(0xffffffff).u32(0), {"type 4294967295"});
  expect_refused(Bytes(0, 1).string("k").u32(9).u32(99).u64(0), {"\"k\"", "type 99"});
  expect_refused(Bytes(0, 1).string("k").u32(9).u32(9).u64(1).u32(4).u64(0), {"array of arrays"});
  expect_refused(Bytes(0, 1).string("k").u32(7).u8(2), {"\"k\"", "bool of value 2"});
  expect_refused(Bytes(0, 1).string("k").u32(9).u32(7).u64(2).u8(1).u8(9), {"bool of value 9"});
  expect_refused(Bytes(0, 1).string("k").u32(9).u32(10).u64(1).u64(~0ull), {"2^63 - 1"});
  expect_refused(Bytes(0, 2).string("k").u32(4).u32(0).string("k").u32(4).u32(1),
                 {"metadata \"k\"", "twice"});
}

TEST(HostileGguf, StringValuesAreKeptByteForByte) {
  const Bytes bytes = Bytes(0, 1).string("k").u32(8).string(std::string_view("\xff\0\n", 3));
  EXPECT_EQ(GgufFile::parse(bytes, "odd").require_string("k"), std::string("\xff\0\n", 3));
}

TEST(HostileGguf, RanksAndDimensions) {
  expect_refused(Bytes(1, 0).tensor("t", {}, 0, 0).data(64), {"\"t\"", "rank 0", "1 to 4"});
  expect_refused(Bytes(1, 0).tensor("t", {1, 1, 1, 1, 1}, 0, 0).data(64), {"rank 5"});
  expect_refused(Bytes(1, 0).string("t").u32(0xffffffff).data(64), {"rank 4294967295"});
  expect_refused(Bytes(1, 0).tensor("t", {8, 0}, 0, 0).data(64), {"dimension 1 of 0"});
  const std::uint64_t half = std::uint64_t{1} << 32;
  expect_refused(Bytes(1, 0).tensor("t", {half, half}, 0, 0).data(64), {"product", "2^63"});
  expect_refused(Bytes(1, 0).tensor("t", {half, half, half, half}, 0, 0).data(64), {"product"});
  expect_refused(Bytes(1, 0).tensor("t", {~0ull, 1}, 0, 0).data(64), {"dimension 0 of 1844674"});
  // The count fits in 63 bits, its bytes do not.
  expect_refused(Bytes(1, 0).tensor("t", {1ull << 62}, 0, 0).data(64), {"outside of the file"});
  expect_refused(Bytes(1, 0).tensor("t", {(1ull << 63) - 1}, 0, 0).data(64), {"outside"});
  expect_refused(Bytes(1, 0).tensor("t", {17}, 0, 0).data(64), {"[17]", "outside of the file"});
  expect_refused(Bytes(1, 0).tensor("t", {33}, 8, 0).data(64), {"q8_0", "33", "multiple of 32"});
  expect_refused(Bytes(1, 0).tensor("t", {32, 8}, 12, 0).data(144), {"q4_k", "multiple of 256"});
}

TEST(HostileGguf, ElementTypes) {
  expect_refused(Bytes(1, 0).tensor("t", {256}, 11, 0).data(110),
                 {"\"t\"", "ggml type 11 (q3_k)", "not supported", "iq4_nl"});
  expect_refused(Bytes(1, 0).tensor("t", {32}, 4, 0).data(64), {"4 (q4_2)", "not supported"});
  expect_refused(Bytes(1, 0).tensor("t", {32}, 77, 0).data(64), {"ggml type 77,"});
  expect_refused(Bytes(1, 0).tensor("t", {32}, ~0u, 0).data(64), {"ggml type 4294967295,"});
}

TEST(HostileGguf, Offsets) {
  expect_refused(Bytes(1, 0).tensor("t", {8}, 0, 8).data(64), {"offset 8", "alignment 32"});
  expect_refused(Bytes(1, 0).tensor("t", {8}, 0, 64).data(64), {"outside of the file"});
  expect_refused(Bytes(1, 0).tensor("t", {9}, 0, 32).data(64), {"outside of the file"});
  expect_refused(Bytes(1, 0).tensor("t", {8}, 0, ~0ull - 31).data(64), {"outside of the file"});
  expect_refused(Bytes(1, 0).tensor("t", {8}, 0, 1ull << 63).data(64), {"outside of the file"});
  expect_refused(Bytes(1, 0).tensor("t", {8}, 0, 0), {"outside of the file"});
  expect_refused(Bytes(2, 0).tensor("t", {16}, 0, 0).tensor("u", {8}, 0, 32).data(64),
                 {"\"t\"", "\"u\"", "overlap"});
  expect_refused(Bytes(2, 0).tensor("t", {8}, 0, 0).tensor("u", {8}, 0, 0).data(64), {"overlap"});
  expect_refused(Bytes(2, 0).tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 32).data(64),
                 {"tensor \"t\"", "twice"});
  const Bytes backwards = Bytes(2, 0).tensor("t", {8}, 0, 32).tensor("u", {8}, 0, 0).data(64);
  EXPECT_EQ(GgufFile::parse(backwards, "good").tensors().size(), 2u);
}

TEST(HostileGguf, Names) {
  expect_refused(Bytes(1, 0).tensor("", {8}, 0, 0).data(32), {"name of tensor 0"});
  expect_refused(Bytes(1, 0).tensor("\xc3\x28", {8}, 0, 0).data(32), {"\\xc3(", "UTF-8"});
}

TEST(HostileGguf, Alignment) {
  const auto with = [](std::uint32_t alignment, std::uint64_t offset, std::size_t pad) {
    return Bytes(1, 1)
        .string("general.alignment")
        .u32(4)
        .u32(alignment)
        .tensor("t", {8}, 0, offset)
        .data(128, pad);
  };
  EXPECT_EQ(GgufFile::parse(with(8, 8, 8), "good").tensors().size(), 1u);
  EXPECT_EQ(GgufFile::parse(with(64, 64, 64), "good").tensors()[0].offset % 64, 0u);
  expect_refused(with(0, 0, 32), {"general.alignment", "0", "power of two"});
  expect_refused(with(24, 0, 32), {"24", "power of two"});
  expect_refused(with(64, 32, 64), {"offset 32", "alignment 64"});
  expect_refused(with(0x80000000, 0, 32), {"outside of the file"});
  expect_refused(Bytes(0, 1).string("general.alignment").u32(8).string("32"),
                 {"general.alignment", "string", "u32"});
}

// Every kind of damage at once: random bytes over an honest file, seeded.
TEST(HostileGguf, RandomDamage) {
  const std::vector<std::byte> bytes = honest_file();
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> bad = bytes;
    for (unsigned i = 0; i < 1 + random() % 8; ++i) {
      bad[random() % bad.size()] = static_cast<std::byte>(random());
    }
    if (random() % 4 == 0) bad.resize(random() % bad.size());
    try {
      (void)GgufFile::parse(bad, "bad.gguf");
    } catch (const Error&) {  // fine; anything else is not
    }
  }
}

TEST(HostileGguf, FilesThatAreNotThere) {
  const test::TempDir dir;
  expect_error([&] { (void)GgufFile::open(dir / "absent.gguf"); }, {"absent.gguf", "No such file"});
  expect_error([&] { (void)GgufFile::open(dir.path()); }, {"directory"});
  expect_error([&] { (void)GgufFile::open(dir.put("empty.gguf", "")); },
               {"empty.gguf", "truncated"});
}

}  // namespace
}  // namespace sedpa
