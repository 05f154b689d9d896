#pragma once
#include <cstdint>
#include <vector>

#include "sedpa/format/gguf.h"
#include "sedpa/format/mapped_file.h"
#include "sedpa/format/tensor_info.h"

namespace sedpa {

/// What one GGUF file says, every length, offset, count, rank and type of it checked, in the order
/// of the file. Names are not yet compared with each other.
struct GgufPart {
  std::uint32_t version = 0;
  std::vector<GgufMetadata> metadata;
  std::vector<TensorInfo> tensors;  // their data lies in the file
};

/// `file` must outlive the tensors. Throws Error naming the file, what was found and expected.
[[nodiscard]] GgufPart read_gguf_part(const MappedFile& file);

}  // namespace sedpa
