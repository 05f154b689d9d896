#include "sedpa/model/model.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "sedpa/core/fail.h"
#include "sedpa/format/quant_blocks.h"
#include "sedpa/model/layer_shape.h"

namespace sedpa {
namespace {

// The places of a checkpoint, with the adapters that change them.
class CheckpointWeights final : public WeightSource {
 public:
  CheckpointWeights(const Checkpoint& checkpoint, std::span<const LoraAdapter> adapters)
      : checkpoint_(checkpoint), adapters_(adapters) {}

  [[nodiscard]] bool has(const Place& place) const override {
    return checkpoint_.find(place.role, place.layer) != nullptr;
  }
  [[nodiscard]] std::int64_t rank(const Place& place) const override {
    return checkpoint_.rank(place.role, place.layer, place.rows, place.cols);
  }
  [[nodiscard]] bool has_bias(const Place& place) const override {
    return checkpoint_.find_bias(place.role, place.layer) != nullptr;
  }
  // Adapters turn quantised types into q8_0.
  [[nodiscard]] Dtype dtype(const Place& place) const override {
    const Dtype own = tensor(place).dtype;
    if (!is_changed(place) || block_size(own) == 1) return own;
    return place.cols % block_size(Dtype::q8_0) == 0 ? Dtype::q8_0 : Dtype::f16;
  }

  [[nodiscard]] std::uint64_t source_bytes(const Place& place) const override {
    return tensor(place).data.size();
  }

  [[nodiscard]] MatrixSource matrix(const Place& place) const override {
    const TensorInfo& from = tensor(place);
    MatrixSource source{.dtype = dtype(place), .rows = place.rows, .cols = place.cols, .read = {}};
    if (is_changed(place)) {
      source.read = [this, place, &from, to = source.dtype](std::int64_t first, std::int64_t count,
                                                            std::byte* out) {
        read_merged(place, from, to, first, count, out);
      };
    } else {
      source.read = [&from](std::int64_t first, std::int64_t count, std::byte* out) {
        const std::int64_t stride = row_bytes(from.dtype, from.cols());
        std::memcpy(out, from.data.data() + first * stride, count * stride);
        from.file->drop(from.offset + first * stride, count * stride);
      };
    }
    return source;
  }

  [[nodiscard]] std::vector<float> vector(const Place& place) const override {
    return numbers(tensor(place));
  }
  [[nodiscard]] std::vector<float> bias(const Place& place) const override {
    const TensorInfo* found = checkpoint_.find_bias(place.role, place.layer);
    if (found == nullptr) return {};
    if (found->shape != std::vector{place.rows}) {
      fail("{}: tensor {} has shape {}, expected [{}]", checkpoint_.path(), found->name,
           found->shape_text(), place.rows);
    }
    return numbers(*found);
  }

 private:
  [[nodiscard]] const TensorInfo& tensor(const Place& place) const {
    return checkpoint_.require(place.role, place.layer, place.rows, place.cols, place.factor);
  }
  [[nodiscard]] bool is_changed(const Place& place) const {
    return std::any_of(adapters_.begin(), adapters_.end(), [&](const LoraAdapter& adapter) {
      return adapter.changes(place.role, place.layer);
    });
  }

  void read_merged(const Place& place, const TensorInfo& from, Dtype to, std::int64_t first,
                   std::int64_t count, std::byte* out) const {
    const std::int64_t stride = row_bytes(from.dtype, place.cols);
    std::vector<float> rows(static_cast<std::size_t>(count * place.cols));
    for (std::int64_t i = 0; i < count; ++i) {
      dequantize_row(from.dtype, from.data.data() + (first + i) * stride, place.cols,
                     rows.data() + i * place.cols);
    }
    for (const LoraAdapter& adapter : adapters_) {
      adapter.add_to(place.role, place.layer, first, count, place.cols, rows.data());
    }
    for (std::int64_t i = 0; i < count; ++i) {
      quantize_row(to, rows.data() + i * place.cols, place.cols,
                   out + i * row_bytes(to, place.cols));
    }
    from.file->drop(from.offset + first * stride, count * stride);
  }

  [[nodiscard]] static std::vector<float> numbers(const TensorInfo& tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.count()));
    dequantize_row(tensor.dtype, tensor.data.data(), tensor.count(), values.data());
    return values;
  }

  const Checkpoint& checkpoint_;
  std::span<const LoraAdapter> adapters_;
};

// Loads what the walk below names.
class Loader {
 public:
  Loader(const WeightSource& source, Ops& ops, const Progress& progress, std::uint64_t total)
      : source_(source), ops_(ops), progress_(progress), total_(total) {}

  void matrix(Weight& weight, std::span<const Place> places) {
    std::vector<MatrixSource> sources;
    for (const Place& place : places) sources.push_back(source_.matrix(place));
    weight = ops_.make_weight(sources);
    for (const Place& place : places) parameters += place.rows * place.cols;
    bytes += weight.bytes;
    for (const Place& place : places) done_ += source_.source_bytes(place);
    if (progress_) progress_(done_, total_);
  }
  void bias(Linear& linear, std::span<const Place> places) {
    if (std::none_of(places.begin(), places.end(),
                     [&](const Place& place) { return source_.has_bias(place); })) {
      return;
    }
    std::vector<float> all;
    for (const Place& place : places) {
      std::vector<float> bias = source_.bias(place);
      parameters += static_cast<std::int64_t>(bias.size());
      bias.resize(static_cast<std::size_t>(place.rows));  // a place without a bias adds zeros
      all.insert(all.end(), bias.begin(), bias.end());
    }
    linear.bias = ops_.make_vector(all);
    bytes += linear.bias.bytes;
  }
  void vector(Vector& vector, const Place& place) {
    vector = ops_.make_vector(source_.vector(place));
    parameters += place.cols;
    bytes += vector.bytes;
  }
  void share(Model& model) { model.output.a = model.embedding; }
  void shape(LayerShape& shape, const ModelConfig& config, std::int32_t layer) {
    shape = load_layer_shape(config, layer, ops_);
    bytes += layer_planes_bytes(config, layer);
  }

  std::int64_t parameters = 0;
  std::size_t bytes = 0;

 private:
  const WeightSource& source_;
  Ops& ops_;
  const Progress& progress_;
  std::uint64_t total_;
  std::uint64_t done_ = 0;
};

// Counts what the walk below names.
class Planner {
 public:
  Planner(const WeightSource& source, const Ops& ops) : source_(source), ops_(ops) {}

  void matrix(Weight&, std::span<const Place> places) {
    for (const Place& place : places) {
      plan.weight_bytes += ops_.weight_bytes(source_.dtype(place), place.rows, place.cols);
      const std::int64_t numbers = place.rows * place.cols;
      plan.parameters += numbers;
      source_bytes += source_.source_bytes(place);
      if (is_attention(place.role)) plan.attention_parameters += numbers;
      if (place.factor != Factor::a) continue;
      ++plan.low_rank_matrices;
      plan.max_rank = std::max(plan.max_rank, place.cols);
    }
  }
  void bias(Linear&, std::span<const Place> places) {
    std::int64_t rows = 0;
    bool any = false;
    for (const Place& place : places) {
      rows += place.rows;
      if (!source_.has_bias(place)) continue;
      plan.parameters += static_cast<std::int64_t>(source_.bias(place).size());
      any = true;
    }
    if (any) plan.weight_bytes += static_cast<std::size_t>(rows) * sizeof(float);
  }
  void vector(Vector&, const Place& place) {
    (void)source_.dtype(place);  // throws when the vector is not there
    plan.weight_bytes += static_cast<std::size_t>(place.cols) * sizeof(float);
    plan.parameters += place.cols;
  }
  void share(Model&) {}
  void shape(LayerShape&, const ModelConfig& config, std::int32_t layer) {
    plan.weight_bytes += layer_planes_bytes(config, layer);
  }

  WeightPlan plan;
  std::uint64_t source_bytes = 0;

 private:
  const WeightSource& source_;
  const Ops& ops_;
};

// Places that share an input, stacked, or one place that may be two factors.
template <class Visitor>
void walk_linear(const WeightSource& source, Linear& linear, std::span<const Place> places,
                 Visitor& visit) {
  const std::int64_t rank = places.size() == 1 ? source.rank(places.front()) : 0;
  if (rank > 0) {
    const Place a[] = {places.front().factor_a(rank)};
    const Place b[] = {places.front().factor_b(rank)};
    visit.matrix(linear.a, a);
    visit.matrix(linear.b.emplace(), b);
  } else {
    visit.matrix(linear.a, places);
  }
  visit.bias(linear, places);
}

// Places that share an input and may be factors: those that are not are stacked with neighbours.
template <class Visitor>
void walk_parts(const WeightSource& source, std::vector<Linear>& parts,
                std::span<const Place> places, Visitor& visit) {
  parts.clear();
  while (!places.empty()) {
    std::size_t count = 1;
    if (source.rank(places.front()) == 0) {
      while (count < places.size() && source.rank(places[count]) == 0) ++count;
    }
    walk_linear(source, parts.emplace_back(), places.first(count), visit);
    places = places.subspan(count);
  }
}

template <class Visitor>
void walk_attention(const ModelConfig& c, const WeightSource& source, std::int32_t i, Layer& layer,
                    Visitor& visit) {
  const auto attention = attention_places(c, i);
  visit.shape(layer.shape, c, i);
  visit.vector(layer.attention_norm, {Role::attention_norm, i, 0, c.width});
  walk_parts(source, layer.qkv, std::span(attention).first(3), visit);
  if (c.query_key_norm) {
    visit.vector(layer.query_norm, {Role::query_norm, i, 0, c.head_dim});
    visit.vector(layer.key_norm, {Role::key_norm, i, 0, c.head_dim});
  }
  walk_linear(source, layer.output, std::span(attention).last(1), visit);
}

template <class Visitor>
void walk_layer(const ModelConfig& c, const WeightSource& source, std::int32_t i, Layer& layer,
                Visitor& visit) {
  walk_attention(c, source, i, layer, visit);
  visit.vector(layer.mlp_norm, {Role::mlp_norm, i, 0, c.width});
  const Place gate_up[] = {{Role::gate, i, c.mlp_width, c.width},
                           {Role::up, i, c.mlp_width, c.width}};
  walk_linear(source, layer.gate_up, gate_up, visit);
  const Place down[] = {{Role::down, i, c.width, c.mlp_width}};
  walk_linear(source, layer.down, down, visit);
}

// Every place of a model, once, in the order of the forward pass.
template <class Visitor>
void walk(const ModelConfig& c, const WeightSource& source, Model& model, Visitor& visit) {
  const Place embedding[] = {{Role::embedding, 0, c.vocab_size, c.width}};
  visit.matrix(model.embedding, embedding);
  model.layers.resize(static_cast<std::size_t>(c.layers));
  for (std::int32_t i = 0; i < c.layers; ++i) {
    walk_layer(c, source, i, model.layers[static_cast<std::size_t>(i)], visit);
  }
  visit.vector(model.output_norm, {Role::output_norm, 0, 0, c.width});
  const Place output[] = {{Role::output, 0, c.vocab_size, c.width}};
  if (!c.tied_output.value_or(!source.has(output[0]))) {
    visit.matrix(model.output.a, output);
  } else {
    visit.share(model);
  }
}

}  // namespace

std::array<Place, 4> attention_places(const ModelConfig& c, std::int32_t layer) {
  const LayerShape shape = layer_columns(c, layer);
  return {{{Role::query, layer, shape.key_begin, c.width},
           {Role::key, layer, shape.value_begin - shape.key_begin, c.width},
           {Role::value, layer, shape.qkv_cols - shape.value_begin, c.width},
           {Role::attention_output, layer, c.width, shape.out_cols}}};
}

std::unique_ptr<WeightSource> checkpoint_weights(const Checkpoint& checkpoint,
                                                 std::span<const LoraAdapter> adapters) {
  return std::make_unique<CheckpointWeights>(checkpoint, adapters);
}

WeightPlan plan_weights(const ModelConfig& config, const WeightSource& source, const Ops& ops) {
  Planner planner(source, ops);
  Model unused;
  walk(config, source, unused, planner);
  return planner.plan;
}

Model load_model(const ModelConfig& config, const WeightSource& source, Ops& ops,
                 const Progress& progress) {
  Planner planner(source, ops);
  Model model;
  model.config = config;
  walk(model.config, source, model, planner);  // every check before the first byte is loaded
  model.config.max_rank = planner.plan.max_rank;
  Loader loader(source, ops, progress, planner.source_bytes);
  walk(model.config, source, model, loader);
  model.parameters = loader.parameters;
  model.weight_bytes = loader.bytes;
  return model;
}

Layer load_layer(const ModelConfig& config, std::int32_t layer, const WeightSource& source,
                 Ops& ops) {
  const Progress nobody;
  Loader loader(source, ops, nobody, 0);
  Layer loaded;
  walk_layer(config, source, layer, loaded, loader);
  return loaded;
}

Layer with_attention(const Layer& layer, const ModelConfig& config, std::int32_t index,
                     const WeightSource& source, Ops& ops) {
  const Progress nobody;
  Loader loader(source, ops, nobody, 0);
  Layer loaded;
  loaded.mlp_norm = layer.mlp_norm;
  loaded.gate_up = layer.gate_up;
  loaded.down = layer.down;
  walk_attention(config, source, index, loaded, loader);
  return loaded;
}

WeightPlan plan_weights(const Checkpoint& checkpoint, std::span<const LoraAdapter> adapters,
                        const Ops& ops) {
  return plan_weights(checkpoint.config(), CheckpointWeights(checkpoint, adapters), ops);
}

Model load_model(const Checkpoint& checkpoint, std::span<const LoraAdapter> adapters, Ops& ops,
                 const Progress& progress) {
  return load_model(checkpoint.config(), CheckpointWeights(checkpoint, adapters), ops, progress);
}

}  // namespace sedpa
