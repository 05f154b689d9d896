#include "tests/model/gate_reference.h"

#include <algorithm>

#include "sedpa/format/quant_blocks.h"
#include "tests/ops_conformance/train_reference.h"

namespace sedpa::test {
namespace {

namespace reference = conformance::reference;
using conformance::Matrix;

std::vector<float> numbers(const TensorInfo& tensor) {
  const std::int64_t cols = tensor.shape.back();
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i) rows *= tensor.shape[i];
  std::vector<float> all(static_cast<std::size_t>(rows * cols));
  for (std::int64_t r = 0; r < rows; ++r) {
    dequantize_row(tensor.dtype, tensor.data.data() + r * row_bytes(tensor.dtype, cols), cols,
                   all.data() + r * cols);
  }
  return all;
}

/// The product of two factors.
std::vector<double> product(const TensorInfo& a, const TensorInfo& b) {
  const auto left = numbers(a);
  const auto right = numbers(b);
  const std::size_t rank = left.size() / static_cast<std::size_t>(a.shape.front());
  const auto cols = static_cast<std::size_t>(b.shape.back());
  std::vector<double> all(static_cast<std::size_t>(a.shape.front()) * cols);
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t r = 0; r < rank; ++r) {
      all[i] += double{left[i / cols * rank + r]} * double{right[r * cols + i % cols]};
    }
  }
  return all;
}

/// The matrices of some roles, one below the other.
Matrix stacked(const Checkpoint& checkpoint, std::initializer_list<Role> roles,
               std::int32_t layer) {
  Matrix all;
  for (const Role role : roles) {
    if (const TensorInfo* a = checkpoint.find(role, layer, Factor::a)) {
      const TensorInfo& b = *checkpoint.find(role, layer, Factor::b);
      const auto part = product(*a, b);
      all.data.insert(all.data.end(), part.begin(), part.end());
      all.rows += a->shape.front();
      all.cols = b.shape.back();
      continue;
    }
    const TensorInfo& tensor = *checkpoint.find(role, layer);
    const auto part = numbers(tensor);
    all.data.insert(all.data.end(), part.begin(), part.end());
    all.rows += tensor.shape.front();
    all.cols = tensor.shape.back();
  }
  return all;
}

std::vector<float> vector_of(const Checkpoint& checkpoint, Role role, std::int32_t layer) {
  const TensorInfo* tensor = checkpoint.find(role, layer);
  return tensor != nullptr ? numbers(*tensor) : std::vector<float>{};
}

Matrix added(Matrix a, const Matrix& b) {
  for (std::size_t i = 0; i < a.data.size(); ++i) a.data[i] += b.data[i];
  return a;
}

Matrix columns(const Matrix& m, std::int64_t begin, std::int64_t count) {
  Matrix part(m.rows, count);
  for (std::int64_t t = 0; t < m.rows; ++t) std::copy_n(m.row(t) + begin, count, part.row(t));
  return part;
}

void set_columns(Matrix& m, std::int64_t begin, const Matrix& part) {
  for (std::int64_t t = 0; t < m.rows; ++t) std::copy_n(part.row(t), part.cols, m.row(t) + begin);
}

}  // namespace

GateReference::GateReference(const Checkpoint& checkpoint) : config_(checkpoint.config()) {
  embedding_ = stacked(checkpoint, {Role::embedding}, 0);
  output_norm_ = vector_of(checkpoint, Role::output_norm, 0);
  for (std::int32_t i = 0; i < config_.layers; ++i) {
    Layer layer{.attention_norm = vector_of(checkpoint, Role::attention_norm, i),
                .query_norm = vector_of(checkpoint, Role::query_norm, i),
                .key_norm = vector_of(checkpoint, Role::key_norm, i),
                .mlp_norm = vector_of(checkpoint, Role::mlp_norm, i),
                .qkv = stacked(checkpoint, {Role::query, Role::key, Role::value}, i),
                .output = stacked(checkpoint, {Role::attention_output}, i),
                .gate_up = stacked(checkpoint, {Role::gate, Role::up}, i),
                .down = stacked(checkpoint, {Role::down}, i),
                .qkv_bias = {}};
    for (const Role role : {Role::query, Role::key, Role::value}) {
      const TensorInfo* bias = checkpoint.find_bias(role, i);
      if (bias == nullptr) continue;
      const auto part = numbers(*bias);
      layer.qkv_bias.insert(layer.qkv_bias.end(), part.begin(), part.end());
    }
    layers_.push_back(std::move(layer));
  }
}

Matrix GateReference::heads(const Layer& layer, const Matrix& x, Matrix* raw) const {
  const AttentionShape shape = config_.attention();
  const Matrix h = reference::rms_norm(x, layer.attention_norm, config_.norm_epsilon, x.cols);
  Matrix qkv = reference::linear(layer.qkv, {}, h, layer.qkv_bias, {});
  if (raw != nullptr) *raw = qkv;
  if (!layer.query_norm.empty()) {
    const auto norm = [&](std::int64_t begin, std::int64_t end, const std::vector<float>& weight) {
      set_columns(qkv, begin,
                  reference::rms_norm(columns(qkv, begin, end - begin), weight,
                                      config_.norm_epsilon, shape.head_dim));
    };
    norm(0, shape.key_begin(), layer.query_norm);
    norm(shape.key_begin(), shape.value_begin(), layer.key_norm);
  }
  return reference::rope(config_.rope(), shape.query_heads + shape.kv_heads, shape.head_dim, 0,
                         qkv);
}

Matrix GateReference::head_norms_backward(const Layer& layer, const Matrix& raw,
                                          const Matrix& d) const {
  if (layer.query_norm.empty()) return d;
  const AttentionShape shape = config_.attention();
  Matrix d_raw = d;
  const auto norm = [&](std::int64_t begin, std::int64_t end, const std::vector<float>& weight) {
    set_columns(
        d_raw, begin,
        reference::rms_norm_backward(columns(raw, begin, end - begin), weight, config_.norm_epsilon,
                                     shape.head_dim, columns(d, begin, end - begin)));
  };
  norm(0, shape.key_begin(), layer.query_norm);
  norm(shape.key_begin(), shape.value_begin(), layer.key_norm);
  return d_raw;
}

Matrix GateReference::finish(const Layer& layer, const Matrix& x, const Matrix& o,
                             Kept* kept) const {
  const Matrix x_mid = added(reference::multiply(layer.output, o), x);
  const Matrix h = reference::rms_norm(x_mid, layer.mlp_norm, config_.norm_epsilon, x.cols);
  const Matrix gate_up = reference::multiply(layer.gate_up, h);
  if (kept != nullptr) {
    kept->x_mid = x_mid;
    kept->gate_up = gate_up;
  }
  return added(reference::multiply(layer.down, reference::swiglu(gate_up)), x_mid);
}

Matrix GateReference::hidden(const Matrix& x, std::span<const std::int64_t> rows) const {
  Matrix some(std::ssize(rows), x.cols);
  for (std::int64_t i = 0; i < some.rows; ++i) {
    std::copy_n(x.row(rows[static_cast<std::size_t>(i)]), x.cols, some.row(i));
  }
  return some;
}

double GateReference::loss(std::span<const std::int32_t> tokens, std::span<const std::int64_t> rows,
                           const HeadClass& window, std::span<const double> gates,
                           std::vector<double>* d_gates) const {
  const AttentionShape shape = config_.attention();
  const HeadClass native =
      config_.sliding_window ? HeadClass::window(0, 0, *config_.sliding_window) : HeadClass{};
  const auto kv_heads = static_cast<std::size_t>(config_.kv_heads);
  const double eps = config_.norm_epsilon;
  Matrix teacher = reference::embed(embedding_, tokens);
  Matrix student = teacher;
  std::vector<Matrix> full;
  std::vector<Kept> kept;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Matrix teacher_heads = heads(layers_[i], teacher, nullptr);
    full.push_back(reference::sequence_attention(shape, native, teacher_heads).out);
    teacher = finish(layers_[i], teacher, full.back(), nullptr);

    Kept& keep = kept.emplace_back();
    keep.x = student;
    keep.heads = heads(layers_[i], student, &keep.raw_heads);
    keep.windowed = reference::sequence_attention(shape, window, keep.heads).out;
    const Matrix o =
        reference::mix_heads(gates.subspan(i * kv_heads, kv_heads), full.back(), keep.windowed);
    student = finish(layers_[i], student, o, &keep);
  }
  const Matrix last = hidden(student, rows);
  const Matrix ours = reference::rms_norm(last, output_norm_, eps, last.cols);
  const Matrix target = reference::rms_norm(hidden(teacher, rows), output_norm_, eps, last.cols);
  const double result = reference::mean_squared_error(ours, target);
  if (d_gates == nullptr) return result;

  const auto back = [](const Matrix& w, const Matrix& d) {
    return reference::multiply(reference::transposed(w), d);
  };
  d_gates->assign(gates.size(), 0.0);
  const Matrix d_last = reference::rms_norm_backward(
      last, output_norm_, eps, last.cols, reference::mean_squared_error_backward(ours, target));
  Matrix d(student.rows, student.cols);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::copy_n(d_last.row(static_cast<std::int64_t>(r)), d.cols, d.row(rows[r]));
  }
  for (std::size_t i = layers_.size(); i-- > 0;) {
    const Layer& layer = layers_[i];
    const Kept& keep = kept[i];
    const Matrix d_gate_up = reference::swiglu_backward(keep.gate_up, back(layer.down, d));
    d = added(d, reference::rms_norm_backward(keep.x_mid, layer.mlp_norm, eps, d.cols,
                                              back(layer.gate_up, d_gate_up)));
    const Matrix d_windowed = reference::mix_heads_backward(
        gates.subspan(i * kv_heads, kv_heads), full[i], keep.windowed, back(layer.output, d),
        std::span(*d_gates).subspan(i * kv_heads, kv_heads));
    Matrix d_heads = reference::sequence_attention_backward(shape, window, keep.heads, d_windowed);
    d_heads = reference::rope_backward(config_.rope(), shape.query_heads + shape.kv_heads,
                                       shape.head_dim, 0, d_heads);
    d_heads = head_norms_backward(layer, keep.raw_heads, d_heads);
    d = added(d, reference::rms_norm_backward(keep.x, layer.attention_norm, eps, d.cols,
                                              back(layer.qkv, d_heads)));
  }
  return result;
}

}  // namespace sedpa::test
