#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sedpa/format/mapped_file.h"
#include "sedpa/format/tensor_info.h"
#include "sedpa/format/tensor_writer.h"

namespace sedpa {

/// One file of Hugging Face's safetensors format: eight bytes of header length, a JSON header, the
/// tensors. F32, F16 and BF16. Checked on opening as strictly as the format's own reader does:
/// every byte after the header belongs to exactly one tensor.
class SafetensorsFile {
 public:
  /// Throws Error naming the file, the tensor or field, what was found and what was expected.
  [[nodiscard]] static SafetensorsFile open(const std::string& path);
  /// The same from memory (copied); `name` stands for the path.
  [[nodiscard]] static SafetensorsFile parse(std::span<const std::byte> bytes, std::string name);

  [[nodiscard]] const std::string& path() const { return file_->path(); }
  [[nodiscard]] std::uint64_t file_bytes() const { return file_->bytes().size(); }
  /// In the order of their bytes in the file.
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const { return tensors_; }
  [[nodiscard]] const TensorInfo* find_tensor(std::string_view name) const;
  /// The strings of `__metadata__`.
  [[nodiscard]] const std::vector<std::pair<std::string, std::string>>& metadata() const {
    return metadata_;
  }

 private:
  SafetensorsFile() = default;
  static SafetensorsFile read(MappedFile mapped);

  std::unique_ptr<MappedFile> file_;  // the address stays
  std::vector<TensorInfo> tensors_;
  std::vector<std::size_t> by_name_;  // positions in tensors_, names ascending
  std::vector<std::pair<std::string, std::string>> metadata_;
};

/// All tensors of a Hugging Face checkpoint: a directory with `model.safetensors`, or with
/// `model.safetensors.index.json` and the shards it names; or one .safetensors file.
class SafetensorsCheckpoint {
 public:
  /// Throws Error naming the file and what is wrong or missing.
  [[nodiscard]] static SafetensorsCheckpoint open(const std::string& path);

  /// The directory or file that was opened.
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::uint64_t file_bytes() const;
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const { return tensors_; }
  /// Null when there is none.
  [[nodiscard]] const TensorInfo* find_tensor(std::string_view name) const;
  /// Throws Error naming the checkpoint and the tensor when there is none.
  [[nodiscard]] const TensorInfo& require_tensor(std::string_view name) const;

 private:
  SafetensorsCheckpoint() = default;
  void add_shards(const std::string& directory, const std::string& index_path);

  std::string path_;
  std::vector<SafetensorsFile> files_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::size_t> by_name_;  // positions in tensors_, names ascending
};

/// The tensors that an index file gives to each shard: (shard file name, tensor names), shards in
/// the order of first mention. Separate for tests and fuzzers. Throws Error.
[[nodiscard]] std::vector<std::pair<std::string, std::vector<std::string>>> parse_shard_index(
    std::string_view json, const std::string& name);

/// Builds a safetensors file of f32, f16 or bf16 tensors.
class SafetensorsWriter final : public TensorWriter {
 public:
  void add_metadata(std::string key, std::string value);

 private:
  void check(const Tensor& tensor) const override;
  void emit(const Sink& sink) const override;
  [[nodiscard]] std::string header() const;

  std::vector<std::pair<std::string, std::string>> metadata_;
};

}  // namespace sedpa
