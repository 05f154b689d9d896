#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "sedpa/format/mapped_file.h"
#include "sedpa/format/tensor_info.h"

namespace sedpa {

/// The value types of GGUF metadata, with their numbers in the file (ggml's docs/gguf.md).
enum class GgufType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

/// A metadata value, widened: unsigned integers to uint64_t, signed ones to int64_t, floats to
/// double; an array of any integer type to int64_t. Strings are bytes, kept as they are.
using GgufValue =
    std::variant<bool, std::int64_t, std::uint64_t, double, std::string, std::vector<bool>,
                 std::vector<std::int64_t>, std::vector<double>, std::vector<std::string>>;

struct GgufMetadata {
  std::string key;
  GgufType type = GgufType::u32;     // in the file
  GgufType element = GgufType::u32;  // of an array's elements
  GgufValue value;

  /// "u32" or "array of string", for messages.
  [[nodiscard]] std::string type_text() const;
};

/// A model file of ggml's GGUF format, versions 2 and 3, little endian, mapped into memory; or the
/// parts of a split one. Everything is checked on opening: what the accessors return can be used
/// without further looking. A file that holds only a vocabulary has no tensors and is fine.
class GgufFile {
 public:
  /// `path` names a file, or the first part of a split one (`NAME-00001-of-000NN.gguf`), whose
  /// other parts lie beside it. Throws Error naming the file, what was found and what was expected.
  [[nodiscard]] static GgufFile open(const std::string& path);
  /// The same from memory (copied); `name` stands for the path. Not for split files.
  [[nodiscard]] static GgufFile parse(std::span<const std::byte> bytes, std::string name);

  [[nodiscard]] const std::string& path() const { return files_.front()->path(); }
  [[nodiscard]] std::uint32_t version() const { return version_; }
  /// Bytes of all parts together.
  [[nodiscard]] std::uint64_t file_bytes() const;
  /// In the order of the file; of split files, the first part's.
  [[nodiscard]] const std::vector<GgufMetadata>& metadata() const { return metadata_; }
  /// In the order of the files.
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const { return tensors_; }
  /// Null when there is none.
  [[nodiscard]] const TensorInfo* find_tensor(std::string_view name) const;
  /// Throws Error naming the file and the tensor when there is none.
  [[nodiscard]] const TensorInfo& require_tensor(std::string_view name) const;

  // Typed look-ups. `find_` gives nothing when the key is absent, `require_` throws then; both
  // throw Error naming file, key, type found and type expected when the value is of another kind.
  // Integers of every width serve both find_uint and find_int, when the value fits.
  [[nodiscard]] const GgufMetadata* find(std::string_view key) const;
  [[nodiscard]] bool has(std::string_view key) const { return find(key) != nullptr; }
  [[nodiscard]] std::optional<std::uint64_t> find_uint(std::string_view key) const;
  [[nodiscard]] std::optional<std::int64_t> find_int(std::string_view key) const;
  [[nodiscard]] std::optional<double> find_float(std::string_view key) const;
  [[nodiscard]] std::optional<bool> find_bool(std::string_view key) const;
  [[nodiscard]] std::optional<std::string> find_string(std::string_view key) const;
  [[nodiscard]] const std::vector<std::string>* find_strings(std::string_view key) const;
  [[nodiscard]] const std::vector<double>* find_floats(std::string_view key) const;
  [[nodiscard]] const std::vector<std::int64_t>* find_ints(std::string_view key) const;
  [[nodiscard]] const std::vector<bool>* find_bools(std::string_view key) const;

  [[nodiscard]] std::uint64_t require_uint(std::string_view key) const;
  [[nodiscard]] std::int64_t require_int(std::string_view key) const;
  [[nodiscard]] double require_float(std::string_view key) const;
  [[nodiscard]] bool require_bool(std::string_view key) const;
  [[nodiscard]] std::string require_string(std::string_view key) const;
  [[nodiscard]] const std::vector<std::string>& require_strings(std::string_view key) const;
  [[nodiscard]] const std::vector<double>& require_floats(std::string_view key) const;
  [[nodiscard]] const std::vector<std::int64_t>& require_ints(std::string_view key) const;

 private:
  GgufFile() = default;
  static GgufFile read(MappedFile mapped);
  void read_parts(std::uint64_t count);
  void index_tensors();
  [[noreturn]] void missing(std::string_view key, std::string_view expected) const;
  [[noreturn]] void mistyped(const GgufMetadata& entry, std::string_view expected) const;

  std::vector<std::unique_ptr<MappedFile>> files_;  // one a part; the addresses stay
  std::uint32_t version_ = 0;
  std::vector<GgufMetadata> metadata_;
  std::vector<std::size_t> metadata_by_key_;  // positions in metadata_, keys ascending
  std::vector<TensorInfo> tensors_;
  std::vector<std::size_t> tensors_by_name_;  // positions in tensors_, names ascending
};

}  // namespace sedpa
