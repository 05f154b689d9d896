#include "sedpa/compress/checkpoint_writer.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "sedpa/core/fail.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/format/gguf_writer.h"
#include "sedpa/format/json.h"
#include "sedpa/format/mapped_file.h"
#include "sedpa/format/quant_blocks.h"

namespace sedpa {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kPrefix = "sedpa.compress.";
constexpr std::string_view kThinPrefix = "sedpa.thin.";

/// Every matrix of the model by the name of its tensor.
std::map<std::string, Place> matrix_places(const Checkpoint& checkpoint, const ModelConfig& c) {
  std::map<std::string, Place> places;
  const auto add = [&](const Place& place) {
    places.emplace(checkpoint.tensor_name(place.role, place.layer), place);
  };
  add({Role::embedding, 0, c.vocab_size, c.width});
  add({Role::output, 0, c.vocab_size, c.width});
  for (std::int32_t i = 0; i < c.layers; ++i) {
    for (const Place& place : attention_places(c, i)) add(place);
    add({Role::gate, i, c.mlp_width, c.width});
    add({Role::up, i, c.mlp_width, c.width});
    add({Role::down, i, c.width, c.mlp_width});
  }
  return places;
}

/// Rows of a matrix, one at a time and in order; from the source come as many as make a megabyte.
TensorWriter::RowSource row_source(const WeightSource& weights, const Place& place) {
  constexpr std::int64_t kBytes = std::int64_t{1} << 20;
  struct Ahead {
    std::vector<std::byte> rows;
    std::int64_t first = 0;
    std::int64_t count = 0;
  };
  return [source = weights.matrix(place), ahead = std::make_shared<Ahead>()](
             std::int64_t row, std::span<std::byte> out) {
    const std::int64_t bytes = row_bytes(source.dtype, source.cols);
    if (row < ahead->first || row >= ahead->first + ahead->count) {
      ahead->first = row;
      ahead->count = std::min(std::max<std::int64_t>(kBytes / bytes, 1), source.rows - row);
      ahead->rows.resize(static_cast<std::size_t>(ahead->count * bytes));
      source.read(row, ahead->count, ahead->rows.data());
    }
    std::copy_n(ahead->rows.data() + (row - ahead->first) * bytes, bytes, out.data());
    if (row + 1 == source.rows) *ahead = {};
  };
}

/// Biases of thin heads by the name of their tensor: those of whole heads are copied.
std::map<std::string, Place> thin_bias_places(const Checkpoint& checkpoint, const ModelConfig& c) {
  std::map<std::string, Place> places;
  if (c.thin.empty()) return places;
  for (std::int32_t i = 0; i < c.layers; ++i) {
    const auto all = attention_places(c, i);
    for (const Place& place : std::span(all).first(3)) {
      places.emplace(checkpoint.bias_name(place.role, i), place);
    }
  }
  return places;
}

/// All tensors in the order of the files: matrices, factors and biases of thin heads from
/// `weights`, others as they are.
void add_tensors(const Checkpoint& checkpoint, const ModelConfig& config,
                 const WeightSource& weights, TensorWriter& writer) {
  const auto places = matrix_places(checkpoint, config);
  const auto biases = thin_bias_places(checkpoint, config);
  const auto add_matrix = [&](const std::string& name, const Place& place) {
    writer.add_tensor(name, weights.dtype(place), {place.rows, place.cols},
                      row_source(weights, place));
  };
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (const auto bias = biases.find(tensor.name); bias != biases.end()) {
      const auto numbers = std::make_shared<const std::vector<float>>(weights.bias(bias->second));
      writer.add_tensor(tensor.name, tensor.dtype, {std::ssize(*numbers)},
                        [numbers, type = tensor.dtype](std::int64_t, std::span<std::byte> out) {
                          quantize_row(type, numbers->data(), std::ssize(*numbers), out.data());
                        });
      continue;
    }
    const auto found = places.find(tensor.name);
    if (found == places.end()) {
      writer.add_tensor(tensor.name, tensor.dtype, tensor.shape, tensor.data);
      continue;
    }
    const Place& place = found->second;
    const std::int64_t rank = weights.rank(place);
    if (rank == 0) {
      add_matrix(tensor.name, place);
    } else {
      add_matrix(checkpoint.tensor_name(place.role, place.layer, Factor::a), place.factor_a(rank));
      add_matrix(checkpoint.tensor_name(place.role, place.layer, Factor::b), place.factor_b(rank));
    }
  }
}

/// What a file says of thin heads, by the names of a directory's config.
std::vector<std::pair<std::string, std::vector<std::int64_t>>> thin_fields(const ThinHeads& thin) {
  std::vector<std::int64_t> keys;
  std::vector<std::int64_t> values;
  for (const HeadWidths& widths : thin.widths) {
    keys.push_back(widths.key);
    values.push_back(widths.value);
  }
  return {{"key_widths", std::move(keys)},
          {"value_widths", std::move(values)},
          {"rope_planes", {thin.rope_planes.begin(), thin.rope_planes.end()}}};
}

void add_origin(GgufWriter& writer, const ordered_json& origin) {
  for (const auto& [name, value] : origin.items()) {
    std::string key = std::string(kPrefix) + name;
    if (value.is_string()) {
      writer.add_string(std::move(key), value.get<std::string>());
    } else if (value.is_array()) {
      writer.add_i32s(std::move(key), value.get<std::vector<std::int64_t>>());
    } else if (value.is_number_float()) {
      writer.add_f32(std::move(key), value.get<float>());
    } else if (value.is_number()) {
      writer.add_u64(std::move(key), value.get<std::uint64_t>());
    }
  }
}

void write_gguf(const Engine& engine, const ModelConfig& config, const WeightSource& weights,
                const ordered_json& origin, const std::string& output) {
  const GgufFile& file = *engine.checkpoint().gguf();
  GgufWriter writer;
  const std::string prefix = file.require_string("general.architecture") + ".";
  for (GgufMetadata entry : file.metadata()) {
    if (entry.key.starts_with("split.") || entry.key.starts_with(kThinPrefix)) continue;
    if (entry.key.starts_with(kPrefix)) entry.key.insert(kPrefix.size(), "thin.");
    if (engine.has_adapters() && entry.key == prefix + "context_length") {
      entry = {entry.key, GgufType::u32, GgufType::u32,
               static_cast<std::uint64_t>(config.trained_context)};
    } else if (engine.has_adapters() && entry.key == prefix + "rope.freq_base") {
      entry = {entry.key, GgufType::f32, GgufType::f32, config.rope_base};
    }
    writer.add(std::move(entry));
  }
  if (!config.thin.empty()) {
    for (auto& [name, numbers] : thin_fields(config.thin)) {
      writer.add_i32s(std::string(kThinPrefix) + name, std::move(numbers));
    }
  }
  add_origin(writer, origin);
  add_tensors(engine.checkpoint(), config, weights, writer);
  writer.write(output);
}

/// config.json with what was changed.
std::string changed_config(const Engine& engine, const ModelConfig& model,
                           const ordered_json& origin) {
  const fs::path path = fs::path(engine.model_path()) / "config.json";
  const MappedFile file = MappedFile::open(path.string());
  const auto bytes = file.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  ordered_json config = parse_ordered_json(text, path.string());
  if (engine.has_adapters()) {
    config["max_position_embeddings"] = engine.config().trained_context;
    const bool newer = config.contains("rope_parameters") && config["rope_parameters"].is_object();
    (newer ? config["rope_parameters"] : config)["rope_theta"] = engine.config().rope_base;
  }
  if (!model.thin.empty()) {
    ordered_json& thin = config["sedpa_thin_heads"] = ordered_json::object();
    for (const auto& [name, numbers] : thin_fields(model.thin)) thin[name] = numbers;
  }
  const auto before = config.find("sedpa_compress");
  ordered_json said = origin;
  if (before != config.end()) said["thin"] = *before;
  config["sedpa_compress"] = said;
  return json_text(config, 2) + "\n";
}

bool is_weights(const fs::path& path) {
  return path.extension() == ".safetensors" || path.extension() == ".bin" ||
         path.filename().string().ends_with(".index.json");
}

void write_directory(const Engine& engine, const ModelConfig& model, const WeightSource& weights,
                     const ordered_json& origin, const std::string& output) {
  const fs::path to = output + ".tmp";
  std::error_code error;
  fs::remove_all(to, error);
  fs::create_directories(to, error);
  if (error) fail("{}: cannot make the directory: {}", to.string(), error.message());
  try {
    for (const auto& entry : fs::directory_iterator(engine.model_path())) {
      if (!entry.is_regular_file() || is_weights(entry.path())) continue;
      fs::copy_file(entry.path(), to / entry.path().filename());
    }
    AtomicFile config((to / "config.json").string());
    config.write(changed_config(engine, model, origin));
    config.commit();
    SafetensorsWriter writer;
    writer.add_metadata("format", "pt");  // what transformers asks for
    add_tensors(engine.checkpoint(), model, weights, writer);
    writer.write((to / "model.safetensors").string());
    fs::rename(to, output);
  } catch (const fs::filesystem_error& failure) {
    fs::remove_all(to, error);
    fail("{}: cannot be written: {}", output, failure.code().message());
  } catch (...) {
    fs::remove_all(to, error);
    throw;
  }
}

}  // namespace

void write_checkpoint(const Engine& engine, const ModelConfig& config, const WeightSource& weights,
                      const std::string& origin_json, const std::string& output) {
  const auto origin = parse_ordered_json(origin_json, "the origin of a compressed model");
  if (engine.checkpoint().gguf() != nullptr) {
    write_gguf(engine, config, weights, origin, output);
  } else {
    write_directory(engine, config, weights, origin, output);
  }
}

}  // namespace sedpa
