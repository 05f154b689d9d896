#include "sedpa/backend/cuda/train_ops.h"

#include <algorithm>
#include <utility>

#include "sedpa/backend/cuda/device.h"
#include "sedpa/backend/cuda/linear_backward.h"
#include "sedpa/backend/cuda/train_rows.h"
#include "sedpa/backend/cuda/window_attention.h"
#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

/// Hands each operation to the part that knows it.
class CudaTrainOps final : public TrainOps {
 public:
  CudaTrainOps(cudaStream_t stream, std::function<void()> launch_pending)
      : stream_(stream),
        launch_pending_(std::move(launch_pending)),
        linear_(stream),
        attention_(stream) {}

  [[nodiscard]] std::size_t scratch_bytes(const TrainPlan& plan) const override {
    return frequency_bytes(plan) + part_bytes(plan) + LinearBackward::scratch_bytes(plan) +
           WindowAttention::scratch_bytes(plan);
  }
  void reserve(const TrainPlan& plan) override {
    check(cudaStreamSynchronize(stream_));
    linear_.reserve(plan);
    attention_.reserve(plan);
    const AttentionShape& shape = plan.attention;
    head_cols_ = std::int64_t{shape.group()} * shape.head_dim;
    max_rows_ = most_rows(plan);
    max_context_ = plan.max_context;
    frequencies_ = DeviceMemory();
    frequencies_ = DeviceMemory(frequency_bytes(plan));
    parts_ = DeviceMemory();
    parts_ = DeviceMemory(part_bytes(plan));
    rope_ = {.inverse_frequency = reinterpret_cast<const double*>(frequencies_.data()),
             .magnitude = plan.rope.magnitude,
             .pairs = plan.rope.dim / 2,
             .neighbours = plan.rope.style == RopeStyle::neighbours,
             .heads = shape.query_heads + shape.kv_heads,
             .head_dim = shape.head_dim};
    if (frequencies_.size() > 0) {
      check(cudaMemcpyAsync(frequencies_.data(), plan.rope.inverse_frequency.data(),
                            frequencies_.size(), cudaMemcpyHostToDevice, stream_));
      check(cudaStreamSynchronize(stream_));
    }
  }
  void store(Rows from, StoredRows to) override {
    launch_pending_();
    store_rows(from, to, stream_);
  }

  void rope(Rows qkv, std::int64_t first) override { turn(qkv, first, true); }
  void rope_backward(Rows d_qkv, std::int64_t first) override { turn(d_qkv, first, false); }

  void window_attention(Rows qkv, const HeadClass& window, Rows out, Rows lse) override {
    attention_.forward(qkv, window, out, lse);
  }
  void window_attention_backward(Rows qkv, const HeadClass& window, Rows out, Rows lse, Rows d_out,
                                 Rows d_qkv) override {
    attention_.backward(qkv, window, out, lse, d_out, d_qkv);
  }

  void mix_heads(Rows gates, StoredRows full, Rows windowed, Rows out) override {
    cuda::mix_heads(gates, full, windowed, head_cols_, out, stream_);
  }
  void mix_heads_backward(Rows gates, StoredRows full, Rows windowed, Rows d_out, Rows d_gates,
                          Rows d_windowed) override {
    if (d_out.rows > max_rows_) {
      fail("the gates' gradient was given {} rows, but {} were reserved", d_out.rows, max_rows_);
    }
    cuda::mix_heads_backward(gates, full, windowed, head_cols_, d_out, d_gates, d_windowed,
                             reinterpret_cast<float*>(parts_.data()), stream_);
  }

  void rms_norm_backward(Rows x, const Vector& weight, float eps, Rows d_out, Rows residual,
                         Rows d_x) override {
    norm_backward(x, weight.data, weight.size, eps, d_out, residual, d_x, stream_);
  }
  void head_norm_backward(Rows x, const Vector& weight, float eps, Rows d_out, Rows d_x) override {
    norm_backward(x, weight.data, weight.size, eps, d_out, {}, d_x, stream_);
  }
  void linear_backward(const Linear& weights, Rows d_out, Rows d_x) override {
    linear_.run(weights, d_out, d_x);
  }
  void swiglu_backward(Rows gate_up, Rows d_out, Rows d_gate_up) override {
    cuda::swiglu_backward(gate_up, d_out, d_gate_up, stream_);
  }
  void mean_squared_error(Rows x, Rows target, Rows loss, Rows d_x) override {
    cuda::mean_squared_error(x, target, loss, d_x, stream_);
  }

 private:
  static std::int64_t most_rows(const TrainPlan& plan) {
    return std::max(plan.max_tokens, plan.max_rows);
  }
  static std::size_t frequency_bytes(const TrainPlan& plan) {
    return plan.rope.inverse_frequency.size() * sizeof(double);
  }
  static std::size_t part_bytes(const TrainPlan& plan) {
    return static_cast<std::size_t>(plan.attention.kv_heads * mix_parts(most_rows(plan))) *
           sizeof(float);
  }
  void turn(Rows qkv, std::int64_t first, bool forward) {
    if (first < 0 || first + qkv.rows > max_context_) {
      fail("positions {} to {} were asked for, but {} were reserved", first, first + qkv.rows - 1,
           max_context_);
    }
    turn_rows(qkv, first, forward, rope_, stream_);
  }

  cudaStream_t stream_;
  std::function<void()> launch_pending_;
  LinearBackward linear_;
  WindowAttention attention_;
  std::int64_t head_cols_ = 0;  // that share a gate
  std::int64_t max_rows_ = 0;
  std::int64_t max_context_ = 0;
  RopeParams rope_;
  DeviceMemory frequencies_;  // f64 [rope.dim / 2]
  DeviceMemory parts_;        // f32 [kv_heads, mix_parts(max_rows)]
};

}  // namespace

std::unique_ptr<TrainOps> make_train_ops(cudaStream_t stream,
                                         std::function<void()> launch_pending) {
  return std::make_unique<CudaTrainOps>(stream, std::move(launch_pending));
}

}  // namespace sedpa::cuda
