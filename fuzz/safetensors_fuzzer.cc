// A safetensors file from memory: the tensors of what is accepted fill it, and a copy reads back.
#include "sedpa/format/safetensors.h"

#include <vector>

#include "fuzz/fuzzing.h"
#include "sedpa/format/quant_blocks.h"

using namespace sedpa;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::parse("fuzz: ", [&] {
    const SafetensorsFile file = SafetensorsFile::parse(fuzz::as_bytes(data, size), "fuzz");
    SafetensorsWriter copy;
    for (const auto& [key, value] : file.metadata()) copy.add_metadata(key, value);
    for (const TensorInfo& tensor : file.tensors()) {
      fuzz::require(file.find_tensor(tensor.name) == &tensor);
      std::vector<float> numbers(static_cast<std::size_t>(tensor.count()));
      dequantize_row(tensor.dtype, tensor.data.data(), tensor.count(), numbers.data());
      copy.add_tensor(tensor.name, tensor.dtype, tensor.shape, tensor.data);
    }
    const SafetensorsFile again = SafetensorsFile::parse(copy.bytes(), "fuzz");
    fuzz::require(again.tensors().size() == file.tensors().size());
  });
  return 0;
}
