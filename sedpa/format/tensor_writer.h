#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sedpa/core/dtype.h"

namespace sedpa {

/// What writers of files of tensors have in common: tensors, written in the order they were added.
class TensorWriter {
 public:
  /// Fills one row of a tensor, row_bytes(dtype, cols) bytes; called once a row, in order.
  using RowSource = std::function<void(std::int64_t row, std::span<std::byte> out)>;

  virtual ~TensorWriter() = default;

  /// `shape` is outermost first. `data` is not copied: it must live until the file is written.
  /// Throws Error when there is a tensor of this name, when the format has no such dtype or shape,
  /// or when the data's size is not that of the shape.
  void add_tensor(std::string name, Dtype dtype, std::vector<std::int64_t> shape,
                  std::span<const std::byte> data);
  void add_tensor(std::string name, Dtype dtype, std::vector<std::int64_t> shape, RowSource source);

  /// Writes beside `path` under a temporary name and renames when all is on disk, so that `path`
  /// never holds half a file. Throws Error naming the path and the system's reason.
  void write(const std::string& path) const;
  /// The file's bytes in memory.
  [[nodiscard]] std::vector<std::byte> bytes() const;

 protected:
  struct Tensor {
    std::string name;
    Dtype dtype;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> data;
    RowSource source;  // used when there is no data
    std::uint64_t bytes = 0;
  };
  using Sink = std::function<void(std::span<const std::byte>)>;

  [[nodiscard]] const std::vector<Tensor>& tensors() const { return tensors_; }
  static void emit_numbers(const Tensor& tensor, const Sink& sink);

 private:
  /// Throws Error when the format cannot hold a tensor of this name, dtype or rank.
  virtual void check(const Tensor& tensor) const = 0;
  virtual void emit(const Sink& sink) const = 0;
  void add(Tensor tensor);

  std::vector<Tensor> tensors_;
};

}  // namespace sedpa
