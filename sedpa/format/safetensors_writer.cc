#include <utility>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/json.h"
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

void SafetensorsWriter::check(const Tensor& tensor) const {
  (void)dtype_text(tensor.dtype);
  if (tensor.name == "__metadata__") fail("tensor {} is already there", printable(tensor.name));
}

std::string SafetensorsWriter::header() const {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata_.empty()) {
    for (const auto& [key, value] : metadata_) header["__metadata__"][key] = value;
  }
  std::uint64_t begin = 0;
  for (const Tensor& tensor : tensors()) {
    const std::uint64_t end = begin + tensor.bytes;
    header[tensor.name] = {{"dtype", dtype_text(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = json_text(header);
  text.resize(round_up(text.size(), std::size_t{8}), ' ');  // so that the data is aligned
  return text;
}

void SafetensorsWriter::emit(const Sink& sink) const {
  const std::string text = header();
  const std::uint64_t length = text.size();
  sink(std::as_bytes(std::span(&length, 1)));
  sink(std::as_bytes(std::span(text)));
  for (const Tensor& tensor : tensors()) emit_numbers(tensor, sink);
}

}  // namespace sedpa
