#include "sedpa/eval/logit_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/json.h"

namespace sedpa {
namespace {

// llama.cpp's format: the magic, three 32-bit counts (context, vocabulary, chunks), the tokens of
// all chunks, then the rows: scale and lowest log-probability as f32, and for each token a 16-bit
// code, log p = lowest + scale * code. An odd vocabulary is padded by one code.
constexpr std::string_view kMagic = "_logits_";
constexpr std::size_t kHeaderBytes = 20;
constexpr float kRange = 16;        // natural logarithms below the highest
constexpr float kCodes = 65535.0f;  // the highest code

std::size_t llama_cpp_codes(std::int64_t vocab_size) {
  return static_cast<std::size_t>(vocab_size + vocab_size % 2 + 4);
}

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

double log_sum(std::span<const float> logits, float highest) {
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - highest);
  return std::log(sum);
}

}  // namespace

void log_softmax(std::span<float> logits) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  const double shift = highest + log_sum(logits, highest);
  for (float& x : logits) x = static_cast<float>(x - shift);
}

LogitFile LogitFile::open(const std::string& path) {
  MappedFile file = MappedFile::open(path);
  const std::string side = path + ".json";
  std::error_code error;
  const auto bytes = file.bytes();
  const bool magic =
      bytes.size() >= kMagic.size() && std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
  if (magic || !std::filesystem::exists(side, error)) return parse(std::move(file), {});
  const MappedFile json = MappedFile::open(side);
  return parse(std::move(file),
               {reinterpret_cast<const char*>(json.bytes().data()), json.bytes().size()});
}

LogitFile LogitFile::parse(MappedFile file, std::string_view json) {
  LogitFile result(std::move(file));
  if (json.empty()) {
    result.parse_llama_cpp();
  } else {
    result.parse_floats(json);
  }
  result.check_tokens();
  return result;
}

void LogitFile::parse_llama_cpp() {
  const auto bytes = file_.bytes();
  if (bytes.size() < kHeaderBytes || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    fail(
        "{}: not a file of logits, expected llama.cpp's \"{}\" at its start, or token ids in "
        "{}.json",
        file_.path(), kMagic, file_.path());
  }
  context_ = load<std::uint32_t>(bytes.data() + 8);
  vocab_size_ = load<std::int32_t>(bytes.data() + 12);
  chunks_ = load<std::int32_t>(bytes.data() + 16);
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (context_ < 4 || context_ > kMost || vocab_size_ < 2 || chunks_ < 1) {
    fail("{}: context {}, vocabulary {}, chunks {}, expected at least 4, 2 and 1", file_.path(),
         context_, vocab_size_, chunks_);
  }
  first_row_ = context_ / 2;
  rows_ = context_ - 1 - first_row_;
  row_bytes_ = 2 * llama_cpp_codes(vocab_size_);
  // Counts are below 2^31, so their products of two fit; the file's size bounds the rest.
  const std::int64_t all = chunks_ * context_;
  const std::int64_t all_rows = chunks_ * rows_;
  const auto size = static_cast<std::int64_t>(bytes.size() - kHeaderBytes);
  const std::int64_t row_bytes = static_cast<std::int64_t>(row_bytes_);
  const std::int64_t left = all <= size / 4 ? size - 4 * all : -1;
  if (left < 0 || left % row_bytes != 0 || left / row_bytes != all_rows) {
    fail("{}: {} bytes after the header, expected {} tokens and {} rows of {} bytes", file_.path(),
         size, all, all_rows, row_bytes);
  }
  const auto token_bytes = static_cast<std::size_t>(4 * all);
  data_ = kHeaderBytes + token_bytes;
  tokens_.resize(static_cast<std::size_t>(all));
  std::memcpy(tokens_.data(), bytes.data() + kHeaderBytes, token_bytes);
}

void LogitFile::parse_floats(std::string_view json) {
  const std::string side = file_.path() + ".json";
  const nlohmann::json fields = parse_json(json, side);
  const auto tokens = fields.find("tokens");
  const auto vocabulary = fields.find("vocabulary");
  if (!fields.is_object() || tokens == fields.end() || !tokens->is_array() ||
      vocabulary == fields.end() || !vocabulary->is_number_unsigned()) {
    fail("{}: expected an object with \"tokens\", an array, and \"vocabulary\", a number", side);
  }
  constexpr std::uint64_t kMost = std::numeric_limits<std::int32_t>::max();
  const auto vocab_size = vocabulary->get<std::uint64_t>();
  if (vocab_size < 2 || vocab_size > kMost) {
    fail("{}: vocabulary is {}, expected 2 to {}", side, vocab_size, kMost);
  }
  for (const nlohmann::json& token : *tokens) {
    if (!token.is_number_unsigned() || token.get<std::uint64_t>() > kMost) {
      fail("{}: tokens[{}] is {}, expected a token id", side, tokens_.size(), json_text(token));
    }
    tokens_.push_back(token.get<std::int32_t>());
  }
  floats_ = true;
  vocab_size_ = static_cast<std::int64_t>(vocab_size);
  context_ = std::ssize(tokens_);
  chunks_ = 1;
  rows_ = context_;
  row_bytes_ = static_cast<std::size_t>(vocab_size_) * sizeof(float);
  const auto expected = checked_mul(static_cast<std::size_t>(rows_), row_bytes_);
  if (context_ < 2 || expected != file_.bytes().size()) {
    fail("{}: {} bytes, expected f32 numbers of {} tokens (2 or more) x {}", file_.path(),
         file_.bytes().size(), context_, vocab_size_);
  }
}

void LogitFile::check_tokens() const {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i] < 0 || tokens_[i] >= vocab_size_) {
      fail("{}: token {} is {}, expected 0 to {}", file_.path(), i, tokens_[i], vocab_size_ - 1);
    }
  }
}

void LogitFile::read(std::int64_t chunk, std::int64_t row, float* log_probs) const {
  if (chunk < 0 || chunk >= chunks_ || row < first_row_ || row >= first_row_ + rows_) {
    fail("{}: row {} of chunk {} was asked for, but there are rows {} to {} of {} chunks",
         file_.path(), row, chunk, first_row_, first_row_ + rows_ - 1, chunks_);
  }
  const auto index = static_cast<std::size_t>(chunk * rows_ + row - first_row_);
  const std::byte* from = file_.bytes().data() + data_ + index * row_bytes_;
  if (floats_) {
    std::memcpy(log_probs, from, row_bytes_);
    log_softmax({log_probs, static_cast<std::size_t>(vocab_size_)});
    return;
  }
  const auto scale = load<float>(from);
  const auto lowest = load<float>(from + 4);
  // Code 0 is "this or less" where the range was cut, and a value like any other where it was not.
  const bool cut = scale * kCodes > kRange * 0.9999f;
  const float below = cut ? -std::numeric_limits<float>::infinity() : lowest;
  for (std::int64_t i = 0; i < vocab_size_; ++i) {
    const auto code = load<std::uint16_t>(from + 8 + 2 * i);
    log_probs[i] = code == 0 ? below : lowest + scale * static_cast<float>(code);
  }
}

LogitFileWriter::LogitFileWriter(const std::string& path, std::int64_t context,
                                 std::int64_t vocab_size, std::span<const std::int32_t> tokens)
    : file_(path), vocab_size_(vocab_size), row_(llama_cpp_codes(vocab_size)) {
  const std::int32_t counts[] = {
      static_cast<std::int32_t>(context), static_cast<std::int32_t>(vocab_size),
      static_cast<std::int32_t>(std::ssize(tokens) / std::max<std::int64_t>(context, 1))};
  file_.write(kMagic);
  file_.write(std::as_bytes(std::span(counts)));
  file_.write(std::as_bytes(tokens));
}

void LogitFileWriter::write(std::span<const float> logits) {
  const auto vocabulary = static_cast<std::size_t>(vocab_size_);
  for (std::size_t begin = 0; begin < logits.size(); begin += vocabulary) {
    const auto row = logits.subspan(begin, vocabulary);
    const auto [least, most] = std::minmax_element(row.begin(), row.end());
    const float highest = *most;
    const float lowest = std::max(*least, highest - kRange);
    const float scale = (highest - lowest) / kCodes;
    const auto lowest_log_prob = static_cast<float>(lowest - highest - log_sum(row, highest));
    std::memcpy(row_.data(), &scale, sizeof(scale));
    std::memcpy(row_.data() + 2, &lowest_log_prob, sizeof(lowest_log_prob));
    for (std::size_t i = 0; i < vocabulary; ++i) {
      const float code = scale > 0 ? (row[i] - lowest) / scale : 0;
      row_[4 + i] = static_cast<std::uint16_t>(std::lround(std::clamp(code, 0.0f, kCodes)));
    }
    file_.write(std::as_bytes(std::span(row_)));
  }
}

}  // namespace sedpa
