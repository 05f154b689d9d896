#include "sedpa/format/gguf_writer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/gguf_types.h"
#include "sedpa/format/printable.h"

namespace sedpa {
namespace {

/// Appends little-endian numbers and strings to a buffer.
class Encoder {
 public:
  template <class T>
  void number(T value) {
    const auto raw = std::as_bytes(std::span(&value, 1));
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
  }
  void string(std::string_view text) {
    number<std::uint64_t>(text.size());
    const auto raw = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
  }
  void pad_to(std::uint64_t alignment) { bytes_.resize(round_up(bytes_.size(), alignment)); }

  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// An integer in the width of its type in the file.
void encode_integer(Encoder& out, GgufType type, std::uint64_t bits) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
      return out.number(static_cast<std::uint8_t>(bits));
    case GgufType::u16:
    case GgufType::i16:
      return out.number(static_cast<std::uint16_t>(bits));
    case GgufType::u32:
    case GgufType::i32:
      return out.number(static_cast<std::uint32_t>(bits));
    default:
      return out.number(bits);
  }
}

void encode_float(Encoder& out, GgufType type, double value) {
  if (type == GgufType::f32) return out.number(static_cast<float>(value));
  out.number(value);
}

struct ValueEncoder {
  Encoder& out;
  const GgufMetadata& entry;

  void operator()(bool value) const { out.number(static_cast<std::uint8_t>(value)); }
  void operator()(std::int64_t value) const {
    encode_integer(out, entry.type, static_cast<std::uint64_t>(value));
  }
  void operator()(std::uint64_t value) const { encode_integer(out, entry.type, value); }
  void operator()(double value) const { encode_float(out, entry.type, value); }
  void operator()(const std::string& value) const { out.string(value); }
  void operator()(const std::vector<bool>& values) const {
    start_array(values.size());
    for (const bool value : values) out.number(static_cast<std::uint8_t>(value));
  }
  void operator()(const std::vector<std::int64_t>& values) const {
    start_array(values.size());
    for (const std::int64_t value : values) {
      encode_integer(out, entry.element, static_cast<std::uint64_t>(value));
    }
  }
  void operator()(const std::vector<double>& values) const {
    start_array(values.size());
    for (const double value : values) encode_float(out, entry.element, value);
  }
  void operator()(const std::vector<std::string>& values) const {
    start_array(values.size());
    for (const std::string& value : values) out.string(value);
  }

 private:
  void start_array(std::size_t count) const {
    out.number(static_cast<std::uint32_t>(entry.element));
    out.number<std::uint64_t>(count);
  }
};

bool is_unsigned(GgufType type) {
  return type == GgufType::u8 || type == GgufType::u16 || type == GgufType::u32 ||
         type == GgufType::u64;
}
bool is_signed(GgufType type) {
  return type == GgufType::i8 || type == GgufType::i16 || type == GgufType::i32 ||
         type == GgufType::i64;
}
bool is_float(GgufType type) { return type == GgufType::f32 || type == GgufType::f64; }

/// Bits of an integer type; the numbers of the others are never asked for.
int width(GgufType type) { return static_cast<int>(gguf_min_bytes(type)) * 8; }

bool fits_signed(std::int64_t value, GgufType type) {
  const int shift = 64 - width(type);
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(value) << shift) >> shift == value;
}
bool fits_unsigned(std::uint64_t value, GgufType type) {
  const int shift = 64 - width(type);
  return (value << shift) >> shift == value;
}

/// Whether the value is of the kind that the entry's types say, and within their range.
bool value_fits(const GgufMetadata& entry) {
  const GgufType type = entry.type;
  if (type != GgufType::array) {
    if (is_unsigned(type)) {
      const auto* const value = std::get_if<std::uint64_t>(&entry.value);
      return value != nullptr && fits_unsigned(*value, type);
    }
    if (is_signed(type)) {
      const auto* const value = std::get_if<std::int64_t>(&entry.value);
      return value != nullptr && fits_signed(*value, type);
    }
    if (is_float(type)) return std::holds_alternative<double>(entry.value);
    if (type == GgufType::boolean) return std::holds_alternative<bool>(entry.value);
    return std::holds_alternative<std::string>(entry.value);
  }
  const GgufType element = entry.element;
  if (is_unsigned(element) || is_signed(element)) {
    const auto* const values = std::get_if<std::vector<std::int64_t>>(&entry.value);
    return values != nullptr && std::ranges::all_of(*values, [&](std::int64_t value) {
             if (is_signed(element)) return fits_signed(value, element);
             return value >= 0 && fits_unsigned(static_cast<std::uint64_t>(value), element);
           });
  }
  if (is_float(element)) return std::holds_alternative<std::vector<double>>(entry.value);
  if (element == GgufType::boolean) return std::holds_alternative<std::vector<bool>>(entry.value);
  return element == GgufType::string &&
         std::holds_alternative<std::vector<std::string>>(entry.value);
}

}  // namespace

void GgufWriter::add_u16(std::string key, std::uint16_t value) {
  add({std::move(key), GgufType::u16, GgufType::u16, std::uint64_t{value}});
}
void GgufWriter::add_u32(std::string key, std::uint32_t value) {
  add({std::move(key), GgufType::u32, GgufType::u32, std::uint64_t{value}});
}
void GgufWriter::add_i32(std::string key, std::int32_t value) {
  add({std::move(key), GgufType::i32, GgufType::i32, std::int64_t{value}});
}
void GgufWriter::add_u64(std::string key, std::uint64_t value) {
  add({std::move(key), GgufType::u64, GgufType::u64, value});
}
void GgufWriter::add_f32(std::string key, float value) {
  add({std::move(key), GgufType::f32, GgufType::f32, double{value}});
}
void GgufWriter::add_bool(std::string key, bool value) {
  add({std::move(key), GgufType::boolean, GgufType::boolean, value});
}
void GgufWriter::add_string(std::string key, std::string value) {
  add({std::move(key), GgufType::string, GgufType::string, std::move(value)});
}
void GgufWriter::add_strings(std::string key, std::vector<std::string> values) {
  add({std::move(key), GgufType::array, GgufType::string, std::move(values)});
}
void GgufWriter::add_f32s(std::string key, std::vector<double> values) {
  add({std::move(key), GgufType::array, GgufType::f32, std::move(values)});
}
void GgufWriter::add_i32s(std::string key, std::vector<std::int64_t> values) {
  add({std::move(key), GgufType::array, GgufType::i32, std::move(values)});
}

void GgufWriter::add(GgufMetadata entry) {
  if (std::ranges::find(metadata_, entry.key, &GgufMetadata::key) != metadata_.end()) {
    fail("metadata {} is already there", printable(entry.key));
  }
  if (!value_fits(entry)) {
    fail("metadata {}: the value is not {}", printable(entry.key), entry.type_text());
  }
  metadata_.push_back(std::move(entry));
}

void GgufWriter::check(const Tensor& tensor) const {
  const bool rank_fits = !tensor.shape.empty() && tensor.shape.size() <= kGgufMaxRank;
  if (!rank_fits || tensor.shape.back() % block_size(tensor.dtype) != 0) {
    fail("tensor {} of {} has shape {}, expected rank 1 to {} and rows of a multiple of {}",
         printable(tensor.name), name(tensor.dtype), shape_text(tensor.shape), kGgufMaxRank,
         block_size(tensor.dtype));
  }
}

void GgufWriter::emit(const Sink& sink) const {
  std::uint64_t alignment = kGgufDefaultAlignment;
  Encoder header;
  header.number<std::uint32_t>(0x46554747);  // "GGUF"
  header.number<std::uint32_t>(3);
  header.number<std::uint64_t>(tensors().size());
  header.number<std::uint64_t>(metadata_.size());
  for (const GgufMetadata& entry : metadata_) {
    header.string(entry.key);
    header.number(static_cast<std::uint32_t>(entry.type));
    std::visit(ValueEncoder{header, entry}, entry.value);
    if (entry.key == kGgufAlignmentKey) alignment = std::get<std::uint64_t>(entry.value);
  }
  std::uint64_t offset = 0;  // from the start of the data
  for (const Tensor& tensor : tensors()) {
    header.string(tensor.name);
    header.number(static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto it = tensor.shape.rbegin(); it != tensor.shape.rend(); ++it) header.number(*it);
    header.number(ggml_type_of(tensor.dtype));
    header.number(offset);
    offset += round_up(tensor.bytes, alignment);
  }
  if (!tensors().empty()) header.pad_to(alignment);  // a vocabulary alone has no data to align
  sink(header.bytes());

  for (const Tensor& tensor : tensors()) {
    emit_numbers(tensor, sink);
    const std::vector<std::byte> padding(round_up(tensor.bytes, alignment) - tensor.bytes);
    sink(padding);
  }
}

}  // namespace sedpa
