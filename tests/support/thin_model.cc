#include "tests/support/thin_model.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <random>

#include "sedpa/format/gguf.h"

namespace sedpa::test {
namespace {

// Which numbers of a query or key the planes are, in the order of the file's RoPE style.
std::vector<std::int32_t> rotating_numbers(const TinyModel& m,
                                           const std::vector<std::int32_t>& planes) {
  const bool neighbours = m.architecture == "llama";
  std::vector<std::int32_t> numbers;
  for (const std::int32_t plane : planes) {
    numbers.push_back(neighbours ? 2 * plane : plane);
    if (neighbours) numbers.push_back(2 * plane + 1);
  }
  for (const std::int32_t plane : planes) {
    if (!neighbours) numbers.push_back(plane + m.head_dim / 2);
  }
  return numbers;
}

// Which rows (or columns of the output projection) of a projection stay, of all that there are.
std::vector<std::int32_t> kept(const ThinModel& m, std::int32_t layer, const std::string& name) {
  const TinyModel& w = m.whole;
  const bool rotates = name == "attn_q" || name == "attn_k";
  const bool grouped = name == "attn_q" || name == "attn_output";
  const std::int32_t group = grouped ? w.query_heads / w.kv_heads : 1;
  std::vector<std::int32_t> indices;
  for (std::int32_t h = 0; h < w.kv_heads; ++h) {
    const auto at = static_cast<std::size_t>(layer * w.kv_heads + h);
    const std::vector<std::int32_t> own =
        rotates ? rotating_numbers(w, m.planes[at]) : m.numbers[at];
    for (std::int32_t g = 0; g < group; ++g) {
      const std::int32_t head = h * group + g;
      for (const std::int32_t i : own) indices.push_back(head * w.head_dim + i);
    }
  }
  return indices;
}

struct Projection {
  std::int32_t layer;
  std::string name;  // "attn_q"
};

// The projection of a tensor "blk.1.attn_q.weight"; no name when it is none of heads.
Projection projection_of(const std::string& tensor) {
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    if (tensor.ends_with(std::string(".") + name + ".weight")) {
      return {std::stoi(tensor.substr(4)), name};
    }
  }
  return {0, ""};
}

struct FloatRows {
  std::int64_t rows;
  std::int64_t cols;
  std::vector<float> numbers;
};

FloatRows matrix_of(const TensorInfo& tensor) {
  FloatRows m{tensor.shape.size() == 1 ? 1 : tensor.shape[0], tensor.shape.back(), {}};
  const auto* from = reinterpret_cast<const float*>(tensor.data.data());
  m.numbers.assign(from, from + m.rows * m.cols);
  return m;
}

FloatRows cut(const FloatRows& m, bool columns, const std::vector<std::int32_t>& keep) {
  const auto count = static_cast<std::int64_t>(keep.size());
  FloatRows out{columns ? m.rows : count, columns ? count : m.cols, {}};
  for (std::int64_t i = 0; i < out.rows; ++i) {
    for (std::int64_t j = 0; j < out.cols; ++j) {
      const std::int64_t row = columns ? i : keep[static_cast<std::size_t>(i)];
      const std::int64_t col = columns ? keep[static_cast<std::size_t>(j)] : j;
      out.numbers.push_back(m.numbers[static_cast<std::size_t>(row * m.cols + col)]);
    }
  }
  return out;
}

FloatRows zero_other_rows(FloatRows m, const std::vector<std::int32_t>& keep) {
  for (std::int64_t row = 0; row < m.rows; ++row) {
    if (std::find(keep.begin(), keep.end(), row) != keep.end()) continue;
    std::fill_n(m.numbers.begin() + row * m.cols, m.cols, 0.0f);
  }
  return m;
}

void write(const std::string& path, const ThinModel& model, bool thin) {
  // The tiny model's own numbers, by way of a file.
  GgufWriter whole;
  add_tiny_config(whole, model.whole);
  add_tiny_tensors(whole, model.whole);
  const GgufFile from = GgufFile::parse(whole.bytes(), "whole");

  GgufWriter file;
  add_tiny_config(file, model.whole);
  add_tiny_vocabulary(file, model.whole);
  if (thin) add_thin_fields(file, model);
  std::vector<std::vector<float>> numbers;  // add_tensor does not copy
  numbers.reserve(from.tensors().size());
  for (const TensorInfo& tensor : from.tensors()) {
    FloatRows matrix = matrix_of(tensor);
    std::vector<std::int64_t> shape = tensor.shape;
    if (const auto [layer, name] = projection_of(tensor.name); !name.empty()) {
      const std::vector<std::int32_t> keep = kept(model, layer, name);
      if (thin) {
        matrix = cut(matrix, name == "attn_output", keep);
        shape = {matrix.rows, matrix.cols};
      } else if (name == "attn_k" || name == "attn_v") {
        matrix = zero_other_rows(std::move(matrix), keep);
      }
    }
    numbers.push_back(std::move(matrix.numbers));
    file.add_tensor(tensor.name, Dtype::f32, shape, std::as_bytes(std::span(numbers.back())));
  }
  file.write(path);
}

}  // namespace

ThinModel make_thin_model(const TinyModel& whole, std::vector<HeadWidths> widths,
                          std::uint64_t seed) {
  ThinModel model{.whole = whole, .widths = std::move(widths), .planes = {}, .numbers = {}};
  std::mt19937_64 random(seed);
  const auto choose = [&](std::int32_t count, std::int32_t of) {
    std::vector<std::int32_t> all(static_cast<std::size_t>(of));
    std::iota(all.begin(), all.end(), 0);
    std::vector<std::int32_t> some;
    std::sample(all.begin(), all.end(), std::back_inserter(some), count, random);
    return some;
  };
  for (const HeadWidths& head : model.widths) {
    model.planes.push_back(choose(head.key / 2, whole.head_dim / 2));
    model.numbers.push_back(choose(head.value, whole.head_dim));
  }
  return model;
}

void add_thin_fields(GgufWriter& file, const ThinModel& model) {
  std::vector<std::int64_t> keys;
  std::vector<std::int64_t> values;
  std::vector<std::int64_t> planes;
  for (std::size_t i = 0; i < model.widths.size(); ++i) {
    keys.push_back(model.widths[i].key);
    values.push_back(model.widths[i].value);
    planes.insert(planes.end(), model.planes[i].begin(), model.planes[i].end());
  }
  file.add_i32s("sedpa.thin.key_widths", std::move(keys));
  file.add_i32s("sedpa.thin.value_widths", std::move(values));
  file.add_i32s("sedpa.thin.rope_planes", std::move(planes));
}

void write_thin_model(const std::string& path, const ThinModel& model) { write(path, model, true); }
void write_zeroed_model(const std::string& path, const ThinModel& model) {
  write(path, model, false);
}

}  // namespace sedpa::test
