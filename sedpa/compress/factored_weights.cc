#include "sedpa/compress/factored_weights.h"

#include "sedpa/compress/parts.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/gguf.h"
#include "sedpa/format/gguf_writer.h"

namespace sedpa {
namespace {

std::string factor_name(Role role, Factor factor) {
  return fmt::format("{}.{}", static_cast<int>(role), factor == Factor::a ? 'A' : 'B');
}

}  // namespace

void FactoredWeights::set(const Place& matrix, const Factors& factors, Dtype dtype) {
  pairs_[{matrix.layer, matrix.role}] = {
      StoredMatrix::of(factors.a, matrix.rows, factors.rank, dtype),
      StoredMatrix::of(factors.b, factors.rank, matrix.cols, dtype)};
}

void FactoredWeights::save_layer(std::int32_t layer, const std::string& path,
                                 const std::string& label) {
  GgufWriter writer;
  writer.add_string(kPartLabelKey, label);
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
  const auto file = open_part(path, label);
  if (!file) return false;
  std::erase_if(pairs_, [&](const auto& entry) { return entry.first.first == layer; });
  for (const Role role : {Role::query, Role::key, Role::value, Role::attention_output}) {
    const auto stored = [&](Factor factor) {
      const TensorInfo& tensor = file->require_tensor(factor_name(role, factor));
      return StoredMatrix{tensor.dtype, tensor.rows(), tensor.cols(), tensor.data, file};
    };
    if (file->find_tensor(factor_name(role, Factor::a)) == nullptr) continue;
    pairs_[{layer, role}] = {stored(Factor::a), stored(Factor::b)};
  }
  return true;
}

const StoredMatrix* FactoredWeights::find(const Place& place) const {
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
  const StoredMatrix* stored = find(place);
  return stored != nullptr ? stored->dtype : original_.dtype(place);
}

std::uint64_t FactoredWeights::source_bytes(const Place& place) const {
  const StoredMatrix* stored = find(place);
  return stored != nullptr ? stored->data.size() : original_.source_bytes(place);
}

MatrixSource FactoredWeights::matrix(const Place& place) const {
  const StoredMatrix* stored = find(place);
  if (stored == nullptr) return original_.matrix(place);
  return stored->source();
}

}  // namespace sedpa
