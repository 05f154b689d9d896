#pragma once
// What a backend needs for a training pass whose every number is f32, so that its gradients can be
// held against a reference's without the roundings of fast inference.
#include <memory>
#include <utility>

#include "sedpa/format/quant_blocks.h"
#include "sedpa/model/weight_source.h"
#include "sedpa/ops/ops.h"
#include "sedpa/ops/train_ops.h"

namespace sedpa::test {

/// A backend whose inference attention is training's, which multiplies f32 numbers: of chunks that
/// are the whole document. Everything else is the backend's own.
class ExactTeacher final : public Ops {
 public:
  /// `kept`: what every head sees, full or a window. `rows`: of the document.
  ExactTeacher(Ops& ops, const HeadClass& kept, const AttentionShape& shape, std::int64_t rows)
      : ops_(ops),
        kept_(kept.full ? HeadClass::window(0, 0, static_cast<std::int32_t>(rows)) : kept),
        memory_(ops.allocate(static_cast<std::size_t>(rows * shape.query_heads) * sizeof(float))),
        lse_{memory_.floats(), rows, shape.query_heads, shape.query_heads} {}

  [[nodiscard]] OpsTraits traits() const override { return ops_.traits(); }
  [[nodiscard]] TrainOps& train() override { return ops_.train(); }
  Buffer allocate(std::size_t bytes) override { return ops_.allocate(bytes); }
  Weight make_weight(std::span<const MatrixSource> bands) override {
    return ops_.make_weight(bands);
  }
  [[nodiscard]] std::size_t weight_bytes(Dtype dtype, std::int64_t rows,
                                         std::int64_t cols) const override {
    return ops_.weight_bytes(dtype, rows, cols);
  }
  Vector make_vector(std::span<const float> values) override { return ops_.make_vector(values); }
  [[nodiscard]] std::size_t scratch_bytes(const OpsPlan& plan) const override {
    return ops_.scratch_bytes(plan);
  }
  void reserve(const OpsPlan& plan) override { ops_.reserve(plan); }
  void read(Rows rows, float* host) override { ops_.read(rows, host); }
  std::int32_t argmax(Rows row) override { return ops_.argmax(row); }
  void copy_to_host(const std::byte* from, std::byte* host, std::size_t bytes) override {
    ops_.copy_to_host(from, host, bytes);
  }
  void copy_from_host(const std::byte* host, std::byte* to, std::size_t bytes) override {
    ops_.copy_from_host(host, to, bytes);
  }
  void repeat(std::span<const std::byte> pattern, std::byte* to, std::size_t bytes) override {
    ops_.repeat(pattern, to, bytes);
  }
  void begin_step(const Step& step, const KvCache& cache) override { ops_.begin_step(step, cache); }
  // Operation by operation: a backend that writes a pass down does not know of training's part.
  void run(const StepKey&, const std::function<void()>& body) override { body(); }
  void embed(const Weight& table, Rows out) override { ops_.embed(table, out); }
  void rms_norm(Rows x, const Vector& weight, float eps, Rows out) override {
    ops_.rms_norm(x, weight, eps, out);
  }
  void head_norm(Rows x, const Vector& weight, float eps, Rows out) override {
    ops_.head_norm(x, weight, eps, out);
  }
  void linear(const Linear& weights, Rows x, Rows out) override { ops_.linear(weights, x, out); }
  void linear_add(const Linear& weights, Rows x, Rows residual, Rows out) override {
    ops_.linear_add(weights, x, residual, out);
  }
  void rope(Rows qkv, const LayerShape& shape) override { ops_.rope(qkv, shape); }
  void attention(Rows qkv, const LayerShape&, const KvLayer&, Rows out) override {
    ops_.train().window_attention(qkv, kept_, out, lse_.range(0, qkv.rows));
  }
  void commit(Rows qkv, const LayerShape& shape, const KvLayer& cache) override {
    ops_.commit(qkv, shape, cache);
  }
  void swiglu(Rows gate_up, Rows out) override { ops_.swiglu(gate_up, out); }
  void clear(Rows out) override { ops_.clear(out); }

 private:
  Ops& ops_;
  HeadClass kept_;
  Buffer memory_;
  Rows lse_;  // [rows, query_heads]
};

/// A model's weights, all of them f32.
class F32Weights final : public WeightSource {
 public:
  explicit F32Weights(const WeightSource& stored) : stored_(stored) {}

  [[nodiscard]] bool has(const Place& place) const override { return stored_.has(place); }
  [[nodiscard]] std::int64_t rank(const Place& place) const override { return stored_.rank(place); }
  [[nodiscard]] bool has_bias(const Place& place) const override { return stored_.has_bias(place); }
  [[nodiscard]] Dtype dtype(const Place&) const override { return Dtype::f32; }
  [[nodiscard]] std::uint64_t source_bytes(const Place& place) const override {
    return stored_.source_bytes(place);
  }
  [[nodiscard]] MatrixSource matrix(const Place& place) const override {
    MatrixSource source = stored_.matrix(place);
    source.read = [from = stored_.matrix(place)](std::int64_t first, std::int64_t count,
                                                 std::byte* out) {
      const auto stride = row_bytes(from.dtype, from.cols);
      std::vector<std::byte> rows(static_cast<std::size_t>(count * stride));
      from.read(first, count, rows.data());
      for (std::int64_t i = 0; i < count; ++i) {
        dequantize_row(from.dtype, rows.data() + i * stride, from.cols,
                       reinterpret_cast<float*>(out) + i * from.cols);
      }
    };
    source.dtype = Dtype::f32;
    return source;
  }
  [[nodiscard]] std::vector<float> vector(const Place& place) const override {
    return stored_.vector(place);
  }
  [[nodiscard]] std::vector<float> bias(const Place& place) const override {
    return stored_.bias(place);
  }

 private:
  const WeightSource& stored_;
};

}  // namespace sedpa::test
