#include "sedpa/compress/thin_weights.h"

#include <numeric>

#include "sedpa/compress/parts.h"
#include "sedpa/compress/sensitivity.h"
#include "sedpa/core/fail.h"
#include "sedpa/format/gguf.h"
#include "sedpa/format/gguf_writer.h"

namespace sedpa {
namespace {

constexpr const char* kKeysKey = "key_widths";
constexpr const char* kValuesKey = "value_widths";
constexpr const char* kPlanesKey = "rope_planes";

std::string matrix_name(Role role) { return fmt::format("{}", static_cast<int>(role)); }
std::string bias_name(Role role) { return matrix_name(role) + ".bias"; }

std::vector<float> floats(const Matrix& m) { return {m.numbers.begin(), m.numbers.end()}; }

}  // namespace

ThinWeights::ThinWeights(const ModelConfig& whole, const WeightSource& original)
    : original_(original), config_(whole) {
  LayerThinness all{
      .widths = std::vector<HeadWidths>(static_cast<std::size_t>(whole.kv_heads),
                                        {.key = whole.head_dim, .value = whole.head_dim}),
      .planes = {}};
  std::vector<std::int32_t> planes(static_cast<std::size_t>(whole.head_dim / 2));
  std::iota(planes.begin(), planes.end(), 0);
  all.planes.assign(all.widths.size(), planes);
  heads_.assign(static_cast<std::size_t>(whole.layers), all);
}

void ThinWeights::set_heads(std::int32_t layer, const LayerThinness& heads) {
  heads_[static_cast<std::size_t>(layer)] = heads;
  config_.thin = {};
  for (const LayerThinness& of : heads_) {
    config_.thin.widths.insert(config_.thin.widths.end(), of.widths.begin(), of.widths.end());
    for (const auto& planes : of.planes) {
      config_.thin.rope_planes.insert(config_.thin.rope_planes.end(), planes.begin(), planes.end());
    }
  }
}

void ThinWeights::set(Role role, std::int32_t layer, const Projection& projection, Dtype dtype) {
  projections_[{layer, role}] = {StoredMatrix::of(floats(projection.matrix), projection.matrix.rows,
                                                  projection.matrix.cols, dtype),
                                 floats(projection.bias)};
}

void ThinWeights::save_layer(std::int32_t layer, const std::string& path,
                             const std::string& label) {
  GgufWriter writer;
  writer.add_string(kPartLabelKey, label);
  const LayerThinness& heads = heads_[static_cast<std::size_t>(layer)];
  std::vector<std::int64_t> keys;
  std::vector<std::int64_t> values;
  std::vector<std::int64_t> all_planes;
  for (const HeadWidths& widths : heads.widths) {
    keys.push_back(widths.key);
    values.push_back(widths.value);
  }
  for (const auto& planes : heads.planes) {
    all_planes.insert(all_planes.end(), planes.begin(), planes.end());
  }
  writer.add_i32s(kKeysKey, keys);
  writer.add_i32s(kValuesKey, values);
  writer.add_i32s(kPlanesKey, all_planes);
  for (const auto& [place, stored] : projections_) {
    if (place.first != layer) continue;
    writer.add_tensor(matrix_name(place.second), stored.matrix.dtype,
                      {stored.matrix.rows, stored.matrix.cols}, stored.matrix.data);
    if (stored.bias.empty()) continue;
    writer.add_tensor(bias_name(place.second), Dtype::f32, {std::ssize(stored.bias)},
                      std::as_bytes(std::span(stored.bias)));
  }
  writer.write(path);
  if (!load_layer(layer, path, label)) fail("{}: was written and is gone", path);
}

bool ThinWeights::load_layer(std::int32_t layer, const std::string& path,
                             const std::string& label) {
  const auto file = open_part(path, label);
  if (!file) return false;
  const auto numbers = [&](const char* key) {
    const auto found = file->find_ints(key);
    if (!found) fail("{}: {} is missing", path, key);
    return *found;
  };
  const auto keys = numbers(kKeysKey);
  const auto values = numbers(kValuesKey);
  const auto planes = numbers(kPlanesKey);
  const auto count = static_cast<std::size_t>(config_.kv_heads);
  const std::int64_t pairs = std::accumulate(keys.begin(), keys.end(), std::int64_t{0}) / 2;
  if (keys.size() != count || values.size() != count || std::ssize(planes) != pairs) {
    fail("{}: is damaged: {} and {} widths and {} planes", path, keys.size(), values.size(),
         planes.size());
  }
  LayerThinness heads;
  auto from = planes.begin();
  for (std::size_t i = 0; i < count; ++i) {
    heads.widths.push_back(
        {.key = static_cast<std::int32_t>(keys[i]), .value = static_cast<std::int32_t>(values[i])});
    heads.planes.emplace_back(from, from + keys[i] / 2);
    from += keys[i] / 2;
  }
  set_heads(layer, heads);
  std::erase_if(projections_, [&](const auto& entry) { return entry.first.first == layer; });
  for (const Role role : {Role::query, Role::key, Role::value, Role::attention_output}) {
    const TensorInfo* tensor = file->find_tensor(matrix_name(role));
    if (tensor == nullptr) continue;
    Stored stored{{tensor->dtype, tensor->rows(), tensor->cols(), tensor->data, file}, {}};
    if (const TensorInfo* bias = file->find_tensor(bias_name(role))) {
      stored.bias.resize(static_cast<std::size_t>(bias->count()));
      dequantize_row(bias->dtype, bias->data.data(), bias->count(), stored.bias.data());
    }
    projections_[{layer, role}] = std::move(stored);
  }
  return true;
}

const ThinWeights::Stored* ThinWeights::find(const Place& place) const {
  const auto found = projections_.find({place.layer, place.role});
  return found == projections_.end() ? nullptr : &found->second;
}

Dtype ThinWeights::dtype(const Place& place) const {
  const Stored* stored = find(place);
  return stored != nullptr ? stored->matrix.dtype : original_.dtype(place);
}

std::uint64_t ThinWeights::source_bytes(const Place& place) const {
  const Stored* stored = find(place);
  return stored != nullptr ? stored->matrix.data.size() : original_.source_bytes(place);
}

MatrixSource ThinWeights::matrix(const Place& place) const {
  const Stored* stored = find(place);
  return stored != nullptr ? stored->matrix.source() : original_.matrix(place);
}

std::vector<float> ThinWeights::bias(const Place& place) const {
  const Stored* stored = find(place);
  return stored != nullptr && !stored->bias.empty() ? stored->bias : original_.bias(place);
}

Projection read_projection(const WeightSource& source, const Place& place) {
  Projection projection{.matrix = read_matrix(source, place), .bias = {}};
  if (!source.has_bias(place)) return projection;
  const std::vector<float> bias = source.bias(place);
  projection.bias = Matrix(place.rows, 1);
  projection.bias.numbers.assign(bias.begin(), bias.end());
  return projection;
}

}  // namespace sedpa
