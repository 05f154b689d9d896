#include "sedpa/format/gguf_reader.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/gguf_types.h"
#include "sedpa/format/printable.h"

namespace sedpa {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are read as little endian");

/// Reads a file front to back and never past its end. Counts are held against the bytes that are
/// left before anything is reserved for them, so a lie about them costs no memory.
class Cursor {
 public:
  explicit Cursor(const MappedFile& file) : bytes_(file.bytes()), path_(file.path()) {}

  [[nodiscard]] std::uint64_t position() const { return position_; }
  [[nodiscard]] std::uint64_t remaining() const { return bytes_.size() - position_; }

  template <class T>
  T read(const char* what) {
    need(sizeof(T), what);
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  std::string_view read_string(const char* what) {
    const auto length = read<std::uint64_t>(what);
    need(length, what);
    const auto* const text = reinterpret_cast<const char*>(bytes_.data() + position_);
    position_ += length;
    return {text, static_cast<std::size_t>(length)};
  }

  /// A count of things that take at least `each` bytes.
  std::size_t check_count(std::uint64_t count, std::uint64_t each, std::string_view what) const {
    if (count > remaining() / each) {
      fail("{}: truncated: {} {} cannot fit in the {} bytes left at byte {}", path_, count, what,
           remaining(), position_);
    }
    return static_cast<std::size_t>(count);
  }

 private:
  void need(std::uint64_t length, const char* what) const {
    if (length <= remaining()) return;
    fail("{}: truncated: {} at byte {} needs {} bytes, {} are left", path_, what, position_, length,
         remaining());
  }

  std::span<const std::byte> bytes_;
  const std::string& path_;
  std::uint64_t position_ = 0;
};

class PartReader {
 public:
  explicit PartReader(const MappedFile& file) : file_(file), cursor_(file) {}

  GgufPart read() {
    read_header();
    part_.metadata.reserve(metadata_count_);
    for (std::size_t i = 0; i < metadata_count_; ++i) part_.metadata.push_back(read_entry(i));
    read_alignment();
    // A tensor's record: the length of its name, rank, one dimension, type and offset.
    const std::size_t tensors = cursor_.check_count(tensor_count_, 8 + 4 + 8 + 4 + 8, "tensors");
    part_.tensors.reserve(tensors);
    for (std::size_t i = 0; i < tensors; ++i) part_.tensors.push_back(read_tensor_record(i));
    place_tensors();
    return std::move(part_);
  }

 private:
  [[nodiscard]] const std::string& path() const { return file_.path(); }

  void read_header() {
    const auto magic = cursor_.read<std::uint32_t>("the magic number");
    if (magic == 0x47475546) fail("{}: big-endian GGUF, expected little-endian", path());
    if (magic != 0x46554747) {
      fail("{}: not a GGUF file: begins with {:#010x}, expected \"GGUF\" (0x46554747)", path(),
           magic);
    }
    part_.version = cursor_.read<std::uint32_t>("the version");
    if (part_.version != 0 && (part_.version & 0xffff) == 0) {
      fail("{}: big-endian GGUF (version {:#010x}), expected little-endian", path(), part_.version);
    }
    if (part_.version != 2 && part_.version != 3) {
      fail("{}: GGUF version {}, expected 2 or 3", path(), part_.version);
    }
    tensor_count_ = cursor_.read<std::uint64_t>("the tensor count");
    // An entry: the length of its key, its type and at least one byte of value.
    metadata_count_ = cursor_.check_count(cursor_.read<std::uint64_t>("the metadata count"),
                                          8 + 4 + 1, "metadata entries");
  }

  GgufMetadata read_entry(std::size_t index) {
    constexpr std::size_t kLongestKey = 65535;  // docs/gguf.md
    const std::string_view key = cursor_.read_string("a metadata key");
    if (key.empty() || key.size() > kLongestKey || !is_utf8(key)) {
      fail("{}: the key of metadata entry {} is {}, expected 1 to {} bytes of UTF-8", path(), index,
           printable(key), kLongestKey);
    }
    key_ = key;
    GgufMetadata entry{.key = std::string(key), .value = {}};
    entry.type = read_type();
    entry.element = entry.type;
    switch (entry.type) {
      case GgufType::u8:
      case GgufType::u16:
      case GgufType::u32:
      case GgufType::u64:
        entry.value = read_unsigned(entry.type);
        break;
      case GgufType::i8:
      case GgufType::i16:
      case GgufType::i32:
      case GgufType::i64:
        entry.value = read_signed(entry.type);
        break;
      case GgufType::f32:
      case GgufType::f64:
        entry.value = read_float(entry.type);
        break;
      case GgufType::boolean:
        entry.value = read_bool();
        break;
      case GgufType::string:
        entry.value = std::string(cursor_.read_string("a metadata string"));
        break;
      case GgufType::array:
        entry.element = read_type();
        entry.value = read_array(entry.element);
        break;
    }
    return entry;
  }

  GgufType read_type() {
    const auto type = cursor_.read<std::uint32_t>("a metadata type");
    if (!gguf_type_name(type)) {
      fail("{}: metadata {} has type {}, expected 0 to 12", path(), printable(key_), type);
    }
    return static_cast<GgufType>(type);
  }

  GgufValue read_array(GgufType element) {
    const auto claimed = cursor_.read<std::uint64_t>("an array's length");
    const std::size_t count =
        cursor_.check_count(claimed, gguf_min_bytes(element), "array elements");
    switch (element) {
      case GgufType::u8:
      case GgufType::u16:
      case GgufType::u32:
      case GgufType::u64:
        return read_elements<std::int64_t>(count,
                                           [&] { return to_signed(read_unsigned(element)); });
      case GgufType::i8:
      case GgufType::i16:
      case GgufType::i32:
      case GgufType::i64:
        return read_elements<std::int64_t>(count, [&] { return read_signed(element); });
      case GgufType::f32:
      case GgufType::f64:
        return read_elements<double>(count, [&] { return read_float(element); });
      case GgufType::boolean:
        return read_elements<bool>(count, [&] { return read_bool(); });
      case GgufType::string:
        return read_elements<std::string>(
            count, [&] { return std::string(cursor_.read_string("a string of an array")); });
      case GgufType::array:
        break;
    }
    fail("{}: metadata {} is an array of arrays, which is not supported", path(), printable(key_));
  }

  template <class T, class Read>
  std::vector<T> read_elements(std::size_t count, Read&& read) {
    std::vector<T> values;
    values.reserve(count);
    for (std::size_t i = 0; i < count; ++i) values.push_back(read());
    return values;
  }

  std::uint64_t read_unsigned(GgufType type) {
    constexpr const char* kWhat = "a metadata integer";
    if (type == GgufType::u8) return cursor_.read<std::uint8_t>(kWhat);
    if (type == GgufType::u16) return cursor_.read<std::uint16_t>(kWhat);
    if (type == GgufType::u32) return cursor_.read<std::uint32_t>(kWhat);
    return cursor_.read<std::uint64_t>(kWhat);
  }

  std::int64_t read_signed(GgufType type) {
    constexpr const char* kWhat = "a metadata integer";
    if (type == GgufType::i8) return cursor_.read<std::int8_t>(kWhat);
    if (type == GgufType::i16) return cursor_.read<std::int16_t>(kWhat);
    if (type == GgufType::i32) return cursor_.read<std::int32_t>(kWhat);
    return cursor_.read<std::int64_t>(kWhat);
  }

  double read_float(GgufType type) {
    constexpr const char* kWhat = "a metadata float";
    return type == GgufType::f32 ? cursor_.read<float>(kWhat) : cursor_.read<double>(kWhat);
  }

  bool read_bool() {
    const auto value = cursor_.read<std::uint8_t>("a metadata bool");
    if (value > 1) {
      fail("{}: metadata {} is a bool of value {}, expected 0 or 1", path(), printable(key_),
           value);
    }
    return value != 0;
  }

  std::int64_t to_signed(std::uint64_t value) const {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      fail("{}: metadata {} holds {} in an array, expected at most 2^63 - 1", path(),
           printable(key_), value);
    }
    return static_cast<std::int64_t>(value);
  }

  void read_alignment() {
    for (const GgufMetadata& entry : part_.metadata) {
      if (entry.key != kGgufAlignmentKey) continue;
      const auto* const value = std::get_if<std::uint64_t>(&entry.value);
      if (value == nullptr || entry.type != GgufType::u32) {
        fail("{}: metadata {} is {}, expected u32", path(), printable(entry.key),
             entry.type_text());
      }
      if (*value == 0 || (*value & (*value - 1)) != 0) {
        fail("{}: metadata {} is {}, expected a power of two", path(), printable(entry.key),
             *value);
      }
      alignment_ = *value;
    }
  }

  /// Everything but where the data lies, which needs the end of the last record.
  TensorInfo read_tensor_record(std::size_t index) {
    const std::string_view name = cursor_.read_string("a tensor's name");
    if (name.empty() || !is_utf8(name)) {
      fail("{}: the name of tensor {} is {}, expected UTF-8", path(), index, printable(name));
    }
    TensorInfo tensor{.name = std::string(name), .shape = {}, .data = {}, .file = &file_};
    const auto rank = cursor_.read<std::uint32_t>("a tensor's rank");
    if (rank < 1 || rank > kGgufMaxRank) {
      fail("{}: tensor {} has rank {}, expected 1 to {}", path(), printable(name), rank,
           kGgufMaxRank);
    }
    std::int64_t count = 1;
    for (std::uint32_t i = 0; i < rank; ++i) {
      const auto dimension = cursor_.read<std::uint64_t>("a tensor's dimension");
      const auto product = dimension <= std::numeric_limits<std::int64_t>::max()
                               ? checked_mul(count, static_cast<std::int64_t>(dimension))
                               : std::nullopt;
      if (dimension == 0 || !product) {
        fail(
            "{}: tensor {} has dimension {} of {}, expected sizes of at least 1 whose product "
            "is below 2^63",
            path(), printable(name), i, dimension);
      }
      count = *product;
      tensor.shape.push_back(static_cast<std::int64_t>(dimension));
    }
    std::ranges::reverse(tensor.shape);  // the file has the innermost first
    const auto type = cursor_.read<std::uint32_t>("a tensor's type");
    const std::optional<Dtype> dtype = dtype_of_ggml(type);
    if (!dtype) {
      fail("{}: tensor {} has ggml type {}, which is not supported; supported are {}", path(),
           printable(name), ggml_type_text(type), supported_dtypes_text());
    }
    tensor.dtype = *dtype;
    if (tensor.cols() % block_size(*dtype) != 0) {
      fail("{}: tensor {} of {} has rows of {} numbers, expected a multiple of {}", path(),
           printable(name), sedpa::name(*dtype), tensor.cols(), block_size(*dtype));
    }
    tensor.offset = cursor_.read<std::uint64_t>("a tensor's offset");
    return tensor;
  }

  /// Turns the offsets, counted from the start of the data, into places in the file.
  void place_tensors() {
    if (part_.tensors.empty()) return;
    const std::uint64_t size = file_.bytes().size();
    const std::uint64_t start = round_up(cursor_.position(), alignment_);
    for (TensorInfo& tensor : part_.tensors) {
      const std::int64_t blocks = tensor.count() / block_size(tensor.dtype);
      const auto length = checked_mul(static_cast<std::uint64_t>(blocks),
                                      static_cast<std::uint64_t>(block_bytes(tensor.dtype)));
      if (tensor.offset % alignment_ != 0) {
        fail("{}: tensor {} has offset {}, expected a multiple of the alignment {}", path(),
             printable(tensor.name), tensor.offset, alignment_);
      }
      if (!length || start > size || tensor.offset > size - start ||
          *length > size - start - tensor.offset) {
        fail(
            "{}: tensor {} ({}, {}) at offset {} of the data lies outside of the file, which has "
            "{} bytes with the data at {}",
            path(), printable(tensor.name), sedpa::name(tensor.dtype), tensor.shape_text(),
            tensor.offset, size, start);
      }
      tensor.offset += start;
      tensor.data = file_.bytes().subspan(tensor.offset, *length);
    }
    check_overlap();
  }

  void check_overlap() const {
    std::vector<std::size_t> order(part_.tensors.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::sort(order, {}, [&](std::size_t i) { return part_.tensors[i].offset; });
    for (std::size_t i = 1; i < order.size(); ++i) {
      const TensorInfo& before = part_.tensors[order[i - 1]];
      const TensorInfo& after = part_.tensors[order[i]];
      if (before.offset + before.data.size() > after.offset) {
        fail("{}: the data of tensors {} and {} overlap", path(), printable(before.name),
             printable(after.name));
      }
    }
  }

  const MappedFile& file_;
  Cursor cursor_;
  GgufPart part_;
  std::string_view key_;  // of the entry being read
  std::uint64_t tensor_count_ = 0;
  std::size_t metadata_count_ = 0;
  std::uint64_t alignment_ = kGgufDefaultAlignment;
};

}  // namespace

GgufPart read_gguf_part(const MappedFile& file) { return PartReader(file).read(); }

}  // namespace sedpa
