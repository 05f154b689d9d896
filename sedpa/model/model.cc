#include "sedpa/model/model.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "sedpa/core/fail.h"
#include "sedpa/format/quant_blocks.h"

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
    return checkpoint_.require(place.role, place.layer, place.rows, place.cols);
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
  void linear(Linear& linear, std::span<const Place> places) {
    matrix(linear.a, places);
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
      bytes += ops_.weight_bytes(source_.dtype(place), place.rows, place.cols);
      parameters += place.rows * place.cols;
      source_bytes += source_.source_bytes(place);
    }
  }
  void linear(Linear& linear, std::span<const Place> places) {
    matrix(linear.a, places);
    std::int64_t rows = 0;
    bool any = false;
    for (const Place& place : places) {
      rows += place.rows;
      if (!source_.has_bias(place)) continue;
      parameters += static_cast<std::int64_t>(source_.bias(place).size());
      any = true;
    }
    if (any) bytes += rows * sizeof(float);
  }
  void vector(Vector&, const Place& place) {
    (void)source_.dtype(place);  // throws when the vector is not there
    bytes += static_cast<std::size_t>(place.cols) * sizeof(float);
    parameters += place.cols;
  }
  void share(Model&) {}

  std::int64_t parameters = 0;
  std::size_t bytes = 0;
  std::uint64_t source_bytes = 0;

 private:
  const WeightSource& source_;
  const Ops& ops_;
};

// Every place of a model, once, in the order of the forward pass.
template <class Visitor>
void walk(const ModelConfig& c, const WeightSource& source, Model& model, Visitor& visit) {
  const std::int64_t query_rows = std::int64_t{c.query_heads} * c.head_dim;
  const std::int64_t kv_rows = std::int64_t{c.kv_heads} * c.head_dim;
  const Place embedding[] = {{Role::embedding, 0, c.vocab_size, c.width}};
  visit.matrix(model.embedding, embedding);
  model.layers.resize(static_cast<std::size_t>(c.layers));
  for (std::int32_t i = 0; i < c.layers; ++i) {
    Layer& layer = model.layers[static_cast<std::size_t>(i)];
    visit.vector(layer.attention_norm, {Role::attention_norm, i, 0, c.width});
    const Place qkv[] = {{Role::query, i, query_rows, c.width},
                         {Role::key, i, kv_rows, c.width},
                         {Role::value, i, kv_rows, c.width}};
    visit.linear(layer.qkv, qkv);
    if (c.query_key_norm) {
      visit.vector(layer.query_norm, {Role::query_norm, i, 0, c.head_dim});
      visit.vector(layer.key_norm, {Role::key_norm, i, 0, c.head_dim});
    }
    const Place output[] = {{Role::attention_output, i, c.width, query_rows}};
    visit.linear(layer.output, output);
    visit.vector(layer.mlp_norm, {Role::mlp_norm, i, 0, c.width});
    const Place gate_up[] = {{Role::gate, i, c.mlp_width, c.width},
                             {Role::up, i, c.mlp_width, c.width}};
    visit.linear(layer.gate_up, gate_up);
    const Place down[] = {{Role::down, i, c.width, c.mlp_width}};
    visit.linear(layer.down, down);
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

std::unique_ptr<WeightSource> checkpoint_weights(const Checkpoint& checkpoint,
                                                 std::span<const LoraAdapter> adapters) {
  return std::make_unique<CheckpointWeights>(checkpoint, adapters);
}

WeightPlan plan_weights(const ModelConfig& config, const WeightSource& source, const Ops& ops) {
  Planner planner(source, ops);
  Model unused;
  walk(config, source, unused, planner);
  return {.parameters = planner.parameters, .weight_bytes = planner.bytes};
}

Model load_model(const ModelConfig& config, const WeightSource& source, Ops& ops,
                 const Progress& progress) {
  Planner planner(source, ops);
  Model model;
  model.config = config;
  walk(model.config, source, model, planner);  // every check before the first byte is loaded
  Loader loader(source, ops, progress, planner.source_bytes);
  walk(model.config, source, model, loader);
  model.parameters = loader.parameters;
  model.weight_bytes = loader.bytes;
  return model;
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
