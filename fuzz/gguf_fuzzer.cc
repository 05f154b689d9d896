// A GGUF file from memory: what is accepted can be read through every accessor, its tensors lie
// inside of it, and a copy of it is accepted too.
#include "sedpa/format/gguf.h"

#include <algorithm>
#include <vector>

#include "fuzz/fuzzing.h"
#include "sedpa/format/gguf_writer.h"
#include "sedpa/format/quant_blocks.h"

namespace {

using namespace sedpa;

void look_up(const GgufFile& file, const std::string& key) {
  const auto any_type = [](auto&& action) { fuzz::parse("fuzz: ", action); };
  fuzz::require(file.has(key));
  any_type([&] { (void)file.require_uint(key); });
  any_type([&] { (void)file.require_int(key); });
  any_type([&] { (void)file.require_float(key); });
  any_type([&] { (void)file.require_bool(key); });
  any_type([&] { (void)file.require_string(key); });
  any_type([&] { (void)file.require_strings(key); });
  any_type([&] { (void)file.require_floats(key); });
  any_type([&] { (void)file.require_ints(key); });
}

void read_first_row(const TensorInfo& tensor) {
  const std::int64_t bytes = row_bytes(tensor.dtype, tensor.cols());
  fuzz::require(tensor.data.size() == static_cast<std::uint64_t>(bytes * tensor.rows()));
  fuzz::require(tensor.file->bytes().data() + tensor.offset == tensor.data.data());
  std::vector<float> row(static_cast<std::size_t>(tensor.cols()));
  dequantize_row(tensor.dtype, tensor.data.data(), tensor.cols(), row.data());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::parse("fuzz: ", [&] {
    const GgufFile file = GgufFile::parse(fuzz::as_bytes(data, size), "fuzz");
    GgufWriter copy;
    for (const GgufMetadata& entry : file.metadata()) {
      look_up(file, entry.key);
      copy.add(entry);
    }
    for (const TensorInfo& tensor : file.tensors()) {
      fuzz::require(file.find_tensor(tensor.name) == &tensor);
      read_first_row(tensor);
      copy.add_tensor(tensor.name, tensor.dtype, tensor.shape, tensor.data);
    }
    // An alignment of gigabytes is allowed, and makes a file of gigabytes.
    if (file.find_uint("general.alignment").value_or(32) > 4096) return;
    const GgufFile again = GgufFile::parse(copy.bytes(), "fuzz");
    fuzz::require(again.metadata().size() == file.metadata().size());
    fuzz::require(again.tensors().size() == file.tensors().size());
  });
  return 0;
}
