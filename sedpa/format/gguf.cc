#include "sedpa/format/gguf.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

#include "sedpa/core/fail.h"
#include "sedpa/format/gguf_reader.h"
#include "sedpa/format/gguf_types.h"
#include "sedpa/format/printable.h"

namespace sedpa {
namespace {

constexpr std::string_view kSplitNo = "split.no";
constexpr std::string_view kSplitCount = "split.count";
constexpr std::string_view kSplitTensors = "split.tensors.count";

/// "-00001-of-00003.gguf"
std::string split_suffix(std::uint64_t number, std::uint64_t count) {
  return fmt::format("-{:05}-of-{:05}.gguf", number, count);
}

/// Positions of `items` in ascending order of their names, in the order of the file where equal.
template <class Item, class Projection>
std::vector<std::size_t> sorted_positions(const std::vector<Item>& items, Projection name) {
  std::vector<std::size_t> order(items.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(
      order, {}, [&](std::size_t i) -> const std::string& { return std::invoke(name, items[i]); });
  return order;
}

template <class Item, class Projection>
const Item* find_by_name(const std::vector<Item>& items, const std::vector<std::size_t>& order,
                         std::string_view wanted, Projection name) {
  const auto key = [&](std::size_t i) -> std::string_view { return std::invoke(name, items[i]); };
  const auto found = std::ranges::lower_bound(order, wanted, {}, key);
  if (found == order.end() || key(*found) != wanted) return nullptr;
  return &items[*found];
}

/// The name that two items share, if any two do.
template <class Item, class Projection>
const std::string* find_double(const std::vector<Item>& items,
                               const std::vector<std::size_t>& order, Projection name) {
  const auto twin = std::ranges::adjacent_find(
      order, {}, [&](std::size_t i) -> const std::string& { return std::invoke(name, items[i]); });
  return twin == order.end() ? nullptr : &std::invoke(name, items[*twin]);
}

}  // namespace

std::string GgufMetadata::type_text() const {
  const auto text = [](GgufType t) { return *gguf_type_name(static_cast<std::uint32_t>(t)); };
  if (type == GgufType::array) return fmt::format("array of {}", text(element));
  return std::string(text(type));
}

GgufFile GgufFile::open(const std::string& path) {
  GgufFile file = read(MappedFile::open(path));
  const std::uint64_t parts = file.find_uint(kSplitCount).value_or(1);
  if (parts > 1) file.read_parts(parts);
  return file;
}

GgufFile GgufFile::parse(std::span<const std::byte> bytes, std::string name) {
  GgufFile file =
      read(MappedFile::from_bytes(std::vector(bytes.begin(), bytes.end()), std::move(name)));
  if (file.find_uint(kSplitCount).value_or(1) > 1) {
    fail("{}: a part of a split file, expected a whole one", file.path());
  }
  return file;
}

GgufFile GgufFile::read(MappedFile mapped) {
  GgufFile file;
  file.files_.push_back(std::make_unique<MappedFile>(std::move(mapped)));
  GgufPart part = read_gguf_part(*file.files_.front());
  file.version_ = part.version;
  file.metadata_ = std::move(part.metadata);
  file.metadata_by_key_ = sorted_positions(file.metadata_, &GgufMetadata::key);
  if (const auto* key = find_double(file.metadata_, file.metadata_by_key_, &GgufMetadata::key)) {
    fail("{}: metadata {} stands there twice", file.path(), printable(*key));
  }
  file.tensors_ = std::move(part.tensors);
  file.index_tensors();
  return file;
}

void GgufFile::index_tensors() {
  tensors_by_name_ = sorted_positions(tensors_, &TensorInfo::name);
  if (const auto* name = find_double(tensors_, tensors_by_name_, &TensorInfo::name)) {
    fail("{}: tensor {} stands there twice", path(), printable(*name));
  }
}

/// The rest of a split file: llama.cpp's gguf-split, which numbers parts from 0 in the metadata and
/// from 1 in the names. Only the first part's other metadata counts.
void GgufFile::read_parts(std::uint64_t count) {
  constexpr std::uint64_t kMostParts = 99999;  // five digits in the name
  if (count > kMostParts) {
    fail("{}: {} is {}, expected at most {}", path(), kSplitCount, count, kMostParts);
  }
  const std::uint64_t number = require_uint(kSplitNo);
  if (number != 0) {
    fail("{}: part {} of a split file of {}: give the first part, -00001-of-{:05}.gguf", path(),
         number < count ? number + 1 : number, count, count);
  }
  const std::string suffix = split_suffix(1, count);
  if (!path().ends_with(suffix)) {
    fail("{}: the first of {} parts, expected a name that ends in {}", path(), count, suffix);
  }
  const std::uint64_t tensors = require_uint(kSplitTensors);
  const std::string prefix = path().substr(0, path().size() - suffix.size());
  for (std::uint64_t i = 1; i < count; ++i) {
    GgufFile part = read(MappedFile::open(prefix + split_suffix(i + 1, count)));
    if (const std::uint64_t found = part.require_uint(kSplitNo); found != i) {
      fail("{}: {} is {}, expected {}", part.path(), kSplitNo, found, i);
    }
    if (const std::uint64_t found = part.require_uint(kSplitCount); found != count) {
      fail("{}: {} is {}, expected {} as in the first part", part.path(), kSplitCount, found,
           count);
    }
    files_.push_back(std::move(part.files_.front()));
    std::ranges::move(part.tensors_, std::back_inserter(tensors_));
  }
  if (tensors_.size() != tensors) {
    fail("{}: the {} parts hold {} tensors, expected {} by {}", path(), count, tensors_.size(),
         tensors, kSplitTensors);
  }
  index_tensors();
}

std::uint64_t GgufFile::file_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& file : files_) bytes += file->bytes().size();
  return bytes;
}

const TensorInfo* GgufFile::find_tensor(std::string_view name) const {
  return find_by_name(tensors_, tensors_by_name_, name, &TensorInfo::name);
}

const TensorInfo& GgufFile::require_tensor(std::string_view name) const {
  const TensorInfo* const tensor = find_tensor(name);
  if (tensor == nullptr) {
    fail("{}: no tensor {} among {}", path(), printable(name), tensors_.size());
  }
  return *tensor;
}

const GgufMetadata* GgufFile::find(std::string_view key) const {
  return find_by_name(metadata_, metadata_by_key_, key, &GgufMetadata::key);
}

void GgufFile::missing(std::string_view key, std::string_view expected) const {
  fail("{}: no metadata {}, expected {}", path(), printable(key), expected);
}

void GgufFile::mistyped(const GgufMetadata& entry, std::string_view expected) const {
  fail("{}: metadata {} is {}, expected {}", path(), printable(entry.key), entry.type_text(),
       expected);
}

std::optional<std::uint64_t> GgufFile::find_uint(std::string_view key) const {
  const GgufMetadata* const entry = find(key);
  if (entry == nullptr) return std::nullopt;
  if (const auto* value = std::get_if<std::uint64_t>(&entry->value)) return *value;
  const auto* const value = std::get_if<std::int64_t>(&entry->value);
  if (value == nullptr) mistyped(*entry, "an integer");
  if (*value < 0) {
    fail("{}: metadata {} is {}, expected at least 0", path(), printable(key), *value);
  }
  return static_cast<std::uint64_t>(*value);
}

std::optional<std::int64_t> GgufFile::find_int(std::string_view key) const {
  const GgufMetadata* const entry = find(key);
  if (entry == nullptr) return std::nullopt;
  if (const auto* value = std::get_if<std::int64_t>(&entry->value)) return *value;
  const auto* const value = std::get_if<std::uint64_t>(&entry->value);
  if (value == nullptr) mistyped(*entry, "an integer");
  if (*value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    fail("{}: metadata {} is {}, expected at most 2^63 - 1", path(), printable(key), *value);
  }
  return static_cast<std::int64_t>(*value);
}

std::optional<double> GgufFile::find_float(std::string_view key) const {
  const GgufMetadata* const entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* const value = std::get_if<double>(&entry->value);
  if (value == nullptr) mistyped(*entry, "a float");
  return *value;
}

std::optional<bool> GgufFile::find_bool(std::string_view key) const {
  const GgufMetadata* const entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* const value = std::get_if<bool>(&entry->value);
  if (value == nullptr) mistyped(*entry, "a bool");
  return *value;
}

std::optional<std::string> GgufFile::find_string(std::string_view key) const {
  const GgufMetadata* const entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* const value = std::get_if<std::string>(&entry->value);
  if (value == nullptr) mistyped(*entry, "a string");
  return *value;
}

const std::vector<std::string>* GgufFile::find_strings(std::string_view key) const {
  const GgufMetadata* const entry = find(key);
  if (entry == nullptr) return nullptr;
  const auto* const value = std::get_if<std::vector<std::string>>(&entry->value);
  if (value == nullptr) mistyped(*entry, "an array of strings");
  return value;
}

const std::vector<double>* GgufFile::find_floats(std::string_view key) const {
  const GgufMetadata* const entry = find(key);
  if (entry == nullptr) return nullptr;
  const auto* const value = std::get_if<std::vector<double>>(&entry->value);
  if (value == nullptr) mistyped(*entry, "an array of floats");
  return value;
}

const std::vector<std::int64_t>* GgufFile::find_ints(std::string_view key) const {
  const GgufMetadata* const entry = find(key);
  if (entry == nullptr) return nullptr;
  const auto* const value = std::get_if<std::vector<std::int64_t>>(&entry->value);
  if (value == nullptr) mistyped(*entry, "an array of integers");
  return value;
}

const std::vector<bool>* GgufFile::find_bools(std::string_view key) const {
  const GgufMetadata* const entry = find(key);
  if (entry == nullptr) return nullptr;
  const auto* const value = std::get_if<std::vector<bool>>(&entry->value);
  if (value == nullptr) mistyped(*entry, "an array of bools");
  return value;
}

std::uint64_t GgufFile::require_uint(std::string_view key) const {
  const auto value = find_uint(key);
  if (!value) missing(key, "an integer");
  return *value;
}

std::int64_t GgufFile::require_int(std::string_view key) const {
  const auto value = find_int(key);
  if (!value) missing(key, "an integer");
  return *value;
}

double GgufFile::require_float(std::string_view key) const {
  const auto value = find_float(key);
  if (!value) missing(key, "a float");
  return *value;
}

bool GgufFile::require_bool(std::string_view key) const {
  const auto value = find_bool(key);
  if (!value) missing(key, "a bool");
  return *value;
}

std::string GgufFile::require_string(std::string_view key) const {
  auto value = find_string(key);
  if (!value) missing(key, "a string");
  return *std::move(value);
}

const std::vector<std::string>& GgufFile::require_strings(std::string_view key) const {
  const auto* const values = find_strings(key);
  if (values == nullptr) missing(key, "an array of strings");
  return *values;
}

const std::vector<double>& GgufFile::require_floats(std::string_view key) const {
  const auto* const values = find_floats(key);
  if (values == nullptr) missing(key, "an array of floats");
  return *values;
}

const std::vector<std::int64_t>& GgufFile::require_ints(std::string_view key) const {
  const auto* const values = find_ints(key);
  if (values == nullptr) missing(key, "an array of integers");
  return *values;
}

}  // namespace sedpa
