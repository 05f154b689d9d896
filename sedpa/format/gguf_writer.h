#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "sedpa/format/gguf.h"
#include "sedpa/format/tensor_writer.h"

namespace sedpa {

/// Builds a GGUF file, version 3, of tensors of rank 1 to 4. Keys are written in the order they
/// were added.
class GgufWriter final : public TensorWriter {
 public:
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

 private:
  void check(const Tensor& tensor) const override;
  void emit(const Sink& sink) const override;

  std::vector<GgufMetadata> metadata_;
};

}  // namespace sedpa
