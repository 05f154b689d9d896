#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sedpa/core/dtype.h"
#include "sedpa/format/gguf.h"

namespace sedpa {

/// Builds a GGUF file, version 3. Keys and tensors are written in the order they were added.
class GgufWriter {
 public:
  /// Fills one row of a tensor, row_bytes(dtype, cols) bytes; called once a row, in order.
  using RowSource = std::function<void(std::int64_t row, std::span<std::byte> out)>;

  // Throw Error when the key is already there.
  void add_u16(std::string key, std::uint16_t value);
  void add_u32(std::string key, std::uint32_t value);
  void add_i32(std::string key, std::int32_t value);
  void add_u64(std::string key, std::uint64_t value);
  void add_f32(std::string key, float value);
  void add_bool(std::string key, bool value);
  void add_string(std::string key, std::string value);
  void add_strings(std::string key, std::vector<std::string> values);
  void add_f32s(std::string key, std::vector<double> values);
  void add_i32s(std::string key, std::vector<std::int64_t> values);
  /// Any entry, for copying another file's metadata as it is. The value must fit the entry's type.
  void add(GgufMetadata entry);

  /// `shape` is outermost first, rank 1 to 4. `data` is not copied: it must live until the file is
  /// written. Throws Error when its size is not that of the shape.
  void add_tensor(std::string name, Dtype dtype, std::vector<std::int64_t> shape,
                  std::span<const std::byte> data);
  void add_tensor(std::string name, Dtype dtype, std::vector<std::int64_t> shape, RowSource source);

  /// Writes beside `path` under a temporary name and renames when all is on disk, so that `path`
  /// never holds half a file. Throws Error naming the path and the system's reason.
  void write(const std::string& path) const;
  /// The file's bytes in memory.
  [[nodiscard]] std::vector<std::byte> bytes() const;

 private:
  struct Tensor {
    std::string name;
    Dtype dtype;
    std::vector<std::int64_t> shape;
    std::uint64_t bytes;
    std::span<const std::byte> data;
    RowSource source;  // used when there is no data
  };
  using Sink = std::function<void(std::span<const std::byte>)>;
  void add_tensor(Tensor tensor);
  void emit(const Sink& sink) const;

  std::vector<GgufMetadata> metadata_;
  std::vector<Tensor> tensors_;
};

}  // namespace sedpa
