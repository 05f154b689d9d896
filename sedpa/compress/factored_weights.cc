#include "sedpa/compress/factored_weights.h"

#include <cstring>
#include <filesystem>

#include "sedpa/core/fail.h"
#include "sedpa/format/gguf.h"
#include "sedpa/format/gguf_writer.h"
#include "sedpa/format/quant_blocks.h"

namespace sedpa {
namespace {

constexpr const char* kLabelKey = "sedpa.compress.part";

std::string factor_name(Role role, Factor factor) {
  return fmt::format("{}.{}", static_cast<int>(role), factor == Factor::a ? 'A' : 'B');
}

}  // namespace

void FactoredWeights::set(const Place& matrix, const Factors& factors, Dtype dtype) {
  const auto stored = [&](const std::vector<float>& numbers, std::int64_t rows, std::int64_t cols) {
    const std::int64_t stride = row_bytes(dtype, cols);
    auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(rows * stride));
    for (std::int64_t i = 0; i < rows; ++i) {
      quantize_row(dtype, numbers.data() + i * cols, cols, bytes->data() + i * stride);
    }
    return Stored{dtype, rows, cols, *bytes, bytes};
  };
  pairs_[{matrix.layer, matrix.role}] = {stored(factors.a, matrix.rows, factors.rank),
                                         stored(factors.b, factors.rank, matrix.cols)};
}

void FactoredWeights::save_layer(std::int32_t layer, const std::string& path,
                                 const std::string& label) {
  GgufWriter writer;
  writer.add_string(kLabelKey, label);
  for (const auto& [place, pair] : pairs_) {
    if (place.first != layer) continue;
    for (const auto& [factor, stored] : {std::pair{Factor::a, &pair.a}, {Factor::b, &pair.b}}) {
      writer.add_tensor(factor_name(place.second, factor), stored->dtype,
                        {stored->rows, stored->cols}, stored->data);
    }
  }
  writer.write(path);
  if (!load_layer(layer, path, label)) fail("{}: was written and is gone", path);
}

bool FactoredWeights::load_layer(std::int32_t layer, const std::string& path,
                                 const std::string& label) {
  if (!std::filesystem::exists(path)) return false;
  const auto file = std::make_shared<const GgufFile>(GgufFile::open(path));
  if (file->find_string(kLabelKey) != label) return false;
  std::erase_if(pairs_, [&](const auto& entry) { return entry.first.first == layer; });
  for (const Role role : {Role::query, Role::key, Role::value, Role::attention_output}) {
    const auto stored = [&](Factor factor) {
      const TensorInfo& tensor = file->require_tensor(factor_name(role, factor));
      return Stored{tensor.dtype, tensor.rows(), tensor.cols(), tensor.data, file};
    };
    if (file->find_tensor(factor_name(role, Factor::a)) == nullptr) continue;
    pairs_[{layer, role}] = {stored(Factor::a), stored(Factor::b)};
  }
  return true;
}

const FactoredWeights::Stored* FactoredWeights::find(const Place& place) const {
  if (place.factor == Factor::none) return nullptr;
  const auto found = pairs_.find({place.layer, place.role});
  if (found == pairs_.end()) return nullptr;
  return place.factor == Factor::a ? &found->second.a : &found->second.b;
}

std::int64_t FactoredWeights::rank(const Place& place) const {
  const auto found = pairs_.find({place.layer, place.role});
  return found == pairs_.end() ? original_.rank(place) : found->second.a.cols;
}

Dtype FactoredWeights::dtype(const Place& place) const {
  const Stored* stored = find(place);
  return stored != nullptr ? stored->dtype : original_.dtype(place);
}

std::uint64_t FactoredWeights::source_bytes(const Place& place) const {
  const Stored* stored = find(place);
  return stored != nullptr ? stored->data.size() : original_.source_bytes(place);
}

MatrixSource FactoredWeights::matrix(const Place& place) const {
  const Stored* stored = find(place);
  if (stored == nullptr) return original_.matrix(place);
  const std::int64_t stride = row_bytes(stored->dtype, stored->cols);
  return {.dtype = stored->dtype,
          .rows = stored->rows,
          .cols = stored->cols,
          .read = [data = stored->data, stride](std::int64_t first, std::int64_t count,
                                                std::byte* out) {
            std::memcpy(out, data.data() + first * stride,
                        static_cast<std::size_t>(count * stride));
          }};
}

}  // namespace sedpa
