#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/format/printable.h"
#include "sedpa/format/safetensors.h"

namespace sedpa {
namespace {

std::string_view dtype_text(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return "F32";
    case Dtype::f16:
      return "F16";
    case Dtype::bf16:
      return "BF16";
    default:
      fail("safetensors has no dtype {}, expected f32, f16 or bf16", name(dtype));
  }
}

}  // namespace

void SafetensorsWriter::add_metadata(std::string key, std::string value) {
  metadata_.emplace_back(std::move(key), std::move(value));
}

void SafetensorsWriter::add_tensor(std::string name, Dtype dtype, std::vector<std::int64_t> shape,
                                   std::span<const std::byte> data) {
  add_tensor({std::move(name), dtype, std::move(shape), data, nullptr});
}

void SafetensorsWriter::add_tensor(std::string name, Dtype dtype, std::vector<std::int64_t> shape,
                                   RowSource source) {
  add_tensor({std::move(name), dtype, std::move(shape), {}, std::move(source)});
}

void SafetensorsWriter::add_tensor(Tensor tensor) {
  (void)dtype_text(tensor.dtype);
  if (tensor.name == "__metadata__" ||
      std::ranges::find(tensors_, tensor.name, &Tensor::name) != tensors_.end()) {
    fail("tensor {} is already there", printable(tensor.name));
  }
  std::optional<std::int64_t> bytes = block_bytes(tensor.dtype);
  for (const std::int64_t size : tensor.shape) {
    bytes = bytes && size >= 1 ? checked_mul(*bytes, size) : std::nullopt;
  }
  if (!bytes || (!tensor.source && tensor.data.size() != static_cast<std::uint64_t>(*bytes))) {
    fail("tensor {} of {}, {}: {} bytes given, expected the size of its shape",
         printable(tensor.name), sedpa::name(tensor.dtype), shape_text(tensor.shape),
         tensor.data.size());
  }
  tensor.bytes = static_cast<std::uint64_t>(*bytes);
  tensors_.push_back(std::move(tensor));
}

std::string SafetensorsWriter::header() const {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata_.empty()) {
    for (const auto& [key, value] : metadata_) header["__metadata__"][key] = value;
  }
  std::uint64_t begin = 0;
  for (const Tensor& tensor : tensors_) {
    const std::uint64_t end = begin + tensor.bytes;
    header[tensor.name] = {{"dtype", dtype_text(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = header.dump();
  text.resize(round_up(text.size(), std::size_t{8}), ' ');  // so that the data is aligned
  return text;
}

void SafetensorsWriter::emit(const Sink& sink) const {
  const std::string text = header();
  const std::uint64_t length = text.size();
  sink(std::as_bytes(std::span(&length, 1)));
  sink(std::as_bytes(std::span(text)));
  for (const Tensor& tensor : tensors_) {
    if (!tensor.source) {
      sink(tensor.data);
      continue;
    }
    const std::int64_t cols = tensor.shape.back();
    std::vector<std::byte> row(static_cast<std::size_t>(row_bytes(tensor.dtype, cols)));
    const auto rows = static_cast<std::int64_t>(tensor.bytes / row.size());
    for (std::int64_t i = 0; i < rows; ++i) {
      tensor.source(i, row);
      sink(row);
    }
  }
}

void SafetensorsWriter::write(const std::string& path) const {
  AtomicFile file(path);
  emit([&](std::span<const std::byte> bytes) { file.write(bytes); });
  file.commit();
}

std::vector<std::byte> SafetensorsWriter::bytes() const {
  std::vector<std::byte> all;
  emit(
      [&](std::span<const std::byte> bytes) { all.insert(all.end(), bytes.begin(), bytes.end()); });
  return all;
}

}  // namespace sedpa
