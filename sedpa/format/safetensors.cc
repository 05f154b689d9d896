#include "sedpa/format/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/json.h"
#include "sedpa/format/printable.h"

namespace sedpa {
namespace {

using nlohmann::json;

constexpr std::uint64_t kLongestHeader = 100'000'000;  // the format's own limit, bytes
constexpr std::size_t kMaxRank = 4;

std::optional<Dtype> parse_dtype(std::string_view text) {
  if (text == "F32") return Dtype::f32;
  if (text == "F16") return Dtype::f16;
  if (text == "BF16") return Dtype::bf16;
  return std::nullopt;
}

/// Walks the header as it is parsed: {"__metadata__": {text: text}, tensor name: {"dtype": text,
/// "shape": [sizes], "data_offsets": [begin, end]}, ...}. Nothing else is let through, and no tree
/// is built, so memory stays in proportion to the tensors.
class HeaderReader final : public json::json_sax_t {
 public:
  HeaderReader(const MappedFile& file, std::uint64_t data_start)
      : file_(file), data_start_(data_start) {}

  std::vector<TensorInfo> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;

  bool start_object(std::size_t) override {
    if (level_ == Level::outside) {
      level_ = Level::top;
    } else if (level_ == Level::top) {
      level_ = name_ == "__metadata__" ? Level::metadata : Level::tensor;
      dtype_.reset();
      shape_.reset();
      offsets_.reset();
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(string_t& text) override {
    (level_ == Level::top ? name_ : field_) = text;
    return true;
  }

  bool end_object() override {
    if (level_ == Level::tensor) finish_tensor();
    level_ = level_ == Level::top ? Level::outside : Level::top;
    return true;
  }

  bool string(string_t& text) override {
    if (level_ == Level::metadata) {
      metadata.emplace_back(field_, text);
      return true;
    }
    if (level_ != Level::tensor || field_ != "dtype" || dtype_) unexpected("a string");
    dtype_ = parse_dtype(text);
    if (!dtype_) {
      fail("{}: tensor {} has dtype {}, which is not supported; supported are F32, F16, BF16",
           file_.path(), printable(name_), printable(text));
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (level_ != Level::tensor) unexpected("an array");
    if (field_ == "shape" && !shape_) {
      shape_.emplace();
    } else if (field_ == "data_offsets" && !offsets_) {
      offsets_.emplace();
    } else {
      unexpected("an array");
    }
    level_ = Level::array;
    return true;
  }

  bool end_array() override {
    level_ = Level::tensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (level_ != Level::array) unexpected("a number");
    if (field_ == "data_offsets") {
      if (offsets_->size() == 2) unexpected("a third number");
      offsets_->push_back(value);
      return true;
    }
    if (shape_->size() == kMaxRank) {
      fail("{}: tensor {} has a rank above {}, which is not supported", file_.path(),
           printable(name_), kMaxRank);
    }
    if (value == 0 || value > std::numeric_limits<std::int64_t>::max()) {
      fail("{}: tensor {} has dimension {}, expected 1 to 2^63 - 1", file_.path(), printable(name_),
           value);
    }
    shape_->push_back(static_cast<std::int64_t>(value));
    return true;
  }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a bool"); }
  bool number_integer(number_integer_t) override { unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { unexpected("a fraction"); }
  bool binary(binary_t&) override { unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    fail("{}: the header is not valid JSON at byte {}", file_.path(), position);
  }

 private:
  enum class Level { outside, top, metadata, tensor, array };

  [[noreturn]] void unexpected(std::string_view found) const {
    if (level_ == Level::outside)
      fail("{}: the header is {}, expected an object", file_.path(), found);
    if (level_ == Level::top) {
      fail("{}: header field {} is {}, expected an object", file_.path(), printable(name_), found);
    }
    const bool known = field_ == "dtype" || field_ == "shape" || field_ == "data_offsets";
    fail("{}: {} field {} holds {}, expected {}", file_.path(),
         level_ == Level::metadata ? "__metadata__" : "tensor " + printable(name_),
         printable(field_), found,
         level_ == Level::metadata ? "strings"
         : known                   ? "dtype, shape and data_offsets once each, a name and numbers"
                                   : "only dtype, shape and data_offsets");
  }

  void finish_tensor() {
    if (!dtype_ || !shape_ || !offsets_ || offsets_->size() != 2) {
      fail("{}: tensor {} has no {}", file_.path(), printable(name_),
           !dtype_   ? "dtype"
           : !shape_ ? "shape"
                     : "data_offsets of two numbers");
    }
    std::optional<std::uint64_t> length = static_cast<std::uint64_t>(block_bytes(*dtype_));
    for (const std::int64_t size : *shape_) {
      if (length) length = checked_mul(*length, static_cast<std::uint64_t>(size));
    }
    const std::uint64_t begin = offsets_->front();
    const std::uint64_t end = offsets_->back();
    const std::uint64_t available = file_.bytes().size() - data_start_;
    if (begin > end || end > available) {
      fail("{}: tensor {} lies at {} to {} of the data, expected within its {} bytes", file_.path(),
           printable(name_), begin, end, available);
    }
    if (!length || *length != end - begin) {
      fail("{}: tensor {} ({}, {}) takes {} bytes, expected the size of its shape", file_.path(),
           printable(name_), sedpa::name(*dtype_), sedpa::shape_text(*shape_), end - begin);
    }
    tensors.push_back({.name = name_,
                       .dtype = *dtype_,
                       .shape = *shape_,
                       .data = file_.bytes().subspan(data_start_ + begin, end - begin),
                       .file = &file_,
                       .offset = data_start_ + begin});
  }

  const MappedFile& file_;
  std::uint64_t data_start_;
  Level level_ = Level::outside;
  std::string name_;   // of the tensor being read, or __metadata__
  std::string field_;  // of it
  std::optional<Dtype> dtype_;
  std::optional<std::vector<std::int64_t>> shape_;
  std::optional<std::vector<std::uint64_t>> offsets_;
};

/// Positions of tensors in ascending order of names; two of one name are refused.
std::vector<std::size_t> sort_by_name(const std::vector<TensorInfo>& tensors,
                                      const std::string& path) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto name = [&](std::size_t i) -> const std::string& { return tensors[i].name; };
  std::ranges::sort(order, {}, name);
  const auto twin = std::ranges::adjacent_find(order, {}, name);
  if (twin != order.end()) fail("{}: tensor {} stands there twice", path, printable(name(*twin)));
  return order;
}

const TensorInfo* find_by_name(const std::vector<TensorInfo>& tensors,
                               const std::vector<std::size_t>& order, std::string_view wanted) {
  const auto name = [&](std::size_t i) -> std::string_view { return tensors[i].name; };
  const auto found = std::ranges::lower_bound(order, wanted, {}, name);
  return found == order.end() || name(*found) != wanted ? nullptr : &tensors[*found];
}

/// The format has no holes: the tensors, in the order of their bytes, fill the data.
void check_cover(const std::vector<TensorInfo>& tensors, const MappedFile& file,
                 std::uint64_t data_start) {
  std::uint64_t position = data_start;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.offset != position) {
      fail("{}: tensor {} begins at byte {}, expected {}, where the one before it ends",
           file.path(), printable(tensor.name), tensor.offset, position);
    }
    position += tensor.data.size();
  }
  if (position != file.bytes().size()) {
    fail("{}: the tensors end at byte {}, expected the end of the file at {}", file.path(),
         position, file.bytes().size());
  }
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  return read(MappedFile::open(path));
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, std::string name) {
  return read(MappedFile::from_bytes(std::vector(bytes.begin(), bytes.end()), std::move(name)));
}

SafetensorsFile SafetensorsFile::read(MappedFile mapped) {
  SafetensorsFile result;
  result.file_ = std::make_unique<MappedFile>(std::move(mapped));
  const MappedFile& file = *result.file_;
  const std::span<const std::byte> bytes = file.bytes();
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) {
    fail("{}: truncated: {} bytes, expected at least 8", file.path(), bytes.size());
  }
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kLongestHeader || length > bytes.size() - sizeof length) {
    fail("{}: the header takes {} bytes, expected at most {} (is this a safetensors file?)",
         file.path(), length, std::min<std::uint64_t>(kLongestHeader, bytes.size() - 8));
  }
  const std::uint64_t data_start = sizeof length + length;
  const auto* const text = reinterpret_cast<const char*>(bytes.data()) + sizeof length;
  HeaderReader reader(file, data_start);
  json::sax_parse(text, text + length, &reader);
  result.metadata_ = std::move(reader.metadata);
  result.tensors_ = std::move(reader.tensors);
  std::ranges::stable_sort(result.tensors_, {}, &TensorInfo::offset);
  check_cover(result.tensors_, file, data_start);
  result.by_name_ = sort_by_name(result.tensors_, file.path());
  return result;
}

const TensorInfo* SafetensorsFile::find_tensor(std::string_view name) const {
  return find_by_name(tensors_, by_name_, name);
}

std::vector<std::pair<std::string, std::vector<std::string>>> parse_shard_index(
    std::string_view text, const std::string& name) {
  const json index = parse_json(text, name);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object()) {
    fail("{}: no object weight_map", name);
  }
  std::vector<std::pair<std::string, std::vector<std::string>>> shards;
  std::map<std::string, std::size_t> position;  // in shards
  for (const auto& [tensor, value] : map->items()) {
    if (!value.is_string()) {
      fail("{}: weight_map {} is {}, expected a file name", name, printable(tensor),
           value.type_name());
    }
    const auto& shard = value.get_ref<const std::string&>();
    // Only beside the index: a name with a path in it could reach any file.
    if (shard.empty() || shard == "." || shard == ".." ||
        shard.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      fail("{}: weight_map {} is {}, expected the name of a file beside it", name,
           printable(tensor), printable(shard));
    }
    const auto [it, added] = position.try_emplace(shard, shards.size());
    if (added) shards.push_back({shard, {}});
    shards[it->second].second.push_back(tensor);
  }
  return shards;
}

SafetensorsCheckpoint SafetensorsCheckpoint::open(const std::string& path) {
  namespace fs = std::filesystem;
  SafetensorsCheckpoint checkpoint;
  checkpoint.path_ = path;
  std::error_code ignored;
  const fs::path directory = path;
  const fs::path single = directory / "model.safetensors";
  const fs::path index = directory / "model.safetensors.index.json";
  if (!fs::is_directory(directory, ignored)) {
    checkpoint.files_.push_back(SafetensorsFile::open(path));
    checkpoint.tensors_ = checkpoint.files_.front().tensors();
  } else if (fs::exists(single, ignored)) {
    checkpoint.files_.push_back(SafetensorsFile::open(single.string()));
    checkpoint.tensors_ = checkpoint.files_.front().tensors();
  } else if (fs::exists(index, ignored)) {
    checkpoint.add_shards(path, index.string());
  } else {
    const bool pickled = fs::exists(directory / "pytorch_model.bin", ignored) ||
                         fs::exists(directory / "pytorch_model.bin.index.json", ignored);
    fail("{}: neither model.safetensors nor model.safetensors.index.json is there{}", path,
         pickled ? "; pytorch_model.bin is not read: convert it to safetensors" : "");
  }
  checkpoint.by_name_ = sort_by_name(checkpoint.tensors_, path);
  return checkpoint;
}

void SafetensorsCheckpoint::add_shards(const std::string& directory,
                                       const std::string& index_path) {
  namespace fs = std::filesystem;
  const MappedFile index = MappedFile::open(index_path);
  const std::string_view text(reinterpret_cast<const char*>(index.bytes().data()),
                              index.bytes().size());
  for (const auto& [shard, names] : parse_shard_index(text, index_path)) {
    const SafetensorsFile& file =
        files_.emplace_back(SafetensorsFile::open((fs::path(directory) / shard).string()));
    for (const std::string& name : names) {
      const TensorInfo* const tensor = file.find_tensor(name);
      if (tensor == nullptr) {
        fail("{}: no tensor {}, expected by {}", file.path(), printable(name), index_path);
      }
      tensors_.push_back(*tensor);
    }
  }
}

std::uint64_t SafetensorsCheckpoint::file_bytes() const {
  std::uint64_t bytes = 0;
  for (const SafetensorsFile& file : files_) bytes += file.file_bytes();
  return bytes;
}

const TensorInfo* SafetensorsCheckpoint::find_tensor(std::string_view name) const {
  return find_by_name(tensors_, by_name_, name);
}

const TensorInfo& SafetensorsCheckpoint::require_tensor(std::string_view name) const {
  const TensorInfo* const tensor = find_tensor(name);
  if (tensor == nullptr) {
    fail("{}: no tensor {} among {}", path_, printable(name), tensors_.size());
  }
  return *tensor;
}

}  // namespace sedpa
