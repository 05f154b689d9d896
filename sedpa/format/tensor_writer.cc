#include "sedpa/format/tensor_writer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/format/printable.h"
#include "sedpa/format/tensor_info.h"

namespace sedpa {
namespace {

/// nullopt when there is a size below 1, or more bytes than a number holds.
std::optional<std::int64_t> bytes_of(Dtype dtype, std::span<const std::int64_t> shape) {
  std::optional<std::int64_t> numbers = 1;
  for (const std::int64_t size : shape) {
    numbers = numbers && size >= 1 ? checked_mul(*numbers, size) : std::nullopt;
  }
  return numbers ? checked_mul(*numbers / block_size(dtype), block_bytes(dtype)) : std::nullopt;
}

}  // namespace

void TensorWriter::add_tensor(std::string name, Dtype dtype, std::vector<std::int64_t> shape,
                              std::span<const std::byte> data) {
  add({std::move(name), dtype, std::move(shape), data, nullptr});
}

void TensorWriter::add_tensor(std::string name, Dtype dtype, std::vector<std::int64_t> shape,
                              RowSource source) {
  add({std::move(name), dtype, std::move(shape), {}, std::move(source)});
}

void TensorWriter::add(Tensor tensor) {
  const std::string name = printable(tensor.name);
  if (std::ranges::find(tensors_, tensor.name, &Tensor::name) != tensors_.end()) {
    fail("tensor {} is already there", name);
  }
  check(tensor);
  const auto bytes = bytes_of(tensor.dtype, tensor.shape);
  if (!bytes) fail("tensor {} has shape {}", name, shape_text(tensor.shape));
  tensor.bytes = static_cast<std::uint64_t>(*bytes);
  if (!tensor.source && tensor.data.size() != tensor.bytes) {
    fail("tensor {} of {}, {}: {} bytes given, expected {}", name, sedpa::name(tensor.dtype),
         shape_text(tensor.shape), tensor.data.size(), tensor.bytes);
  }
  tensors_.push_back(std::move(tensor));
}

void TensorWriter::emit_numbers(const Tensor& tensor, const Sink& sink) {
  if (!tensor.source) {
    sink(tensor.data);
    return;
  }
  const std::int64_t cols = tensor.shape.back();
  std::vector<std::byte> row(static_cast<std::size_t>(row_bytes(tensor.dtype, cols)));
  const auto rows = static_cast<std::int64_t>(tensor.bytes / row.size());
  for (std::int64_t i = 0; i < rows; ++i) {
    tensor.source(i, row);
    sink(row);
  }
}

void TensorWriter::write(const std::string& path) const {
  AtomicFile file(path);
  emit([&](std::span<const std::byte> bytes) { file.write(bytes); });
  file.commit();
}

std::vector<std::byte> TensorWriter::bytes() const {
  std::vector<std::byte> all;
  emit(
      [&](std::span<const std::byte> bytes) { all.insert(all.end(), bytes.begin(), bytes.end()); });
  return all;
}

}  // namespace sedpa
