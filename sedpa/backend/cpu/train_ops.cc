#include "sedpa/backend/cpu/train_ops.h"

#include "sedpa/backend/cpu/linear_backward.h"
#include "sedpa/backend/cpu/row_backward.h"
#include "sedpa/backend/cpu/window_attention.h"

namespace sedpa::cpu {
namespace {

/// Hands each operation to the part that knows it.
class CpuTrainOps final : public TrainOps {
 public:
  CpuTrainOps(ThreadPool& pool, const Kernels& kernels)
      : linear_(pool, kernels), rows_(pool, kernels), attention_(pool, kernels) {}

  [[nodiscard]] std::size_t scratch_bytes(const TrainPlan& plan) const override {
    return linear_.scratch_bytes(plan) + RowBackward::scratch_bytes(plan) +
           attention_.scratch_bytes(plan);
  }
  void reserve(const TrainPlan& plan) override {
    linear_.reserve(plan);
    rows_.reserve(plan);
    attention_.reserve(plan);
  }
  void store(Rows from, StoredRows to) override { rows_.store(from, to); }

  void rope(Rows qkv, std::int64_t first) override { rows_.rope(qkv, first, true); }
  void rope_backward(Rows d_qkv, std::int64_t first) override { rows_.rope(d_qkv, first, false); }

  void window_attention(Rows qkv, const HeadClass& window, Rows out, Rows lse) override {
    attention_.forward(qkv, window, out, lse);
  }
  void window_attention_backward(Rows qkv, const HeadClass& window, Rows out, Rows lse, Rows d_out,
                                 Rows d_qkv) override {
    attention_.backward(qkv, window, out, lse, d_out, d_qkv);
  }

  void mix_heads(Rows gates, StoredRows full, Rows windowed, Rows out) override {
    rows_.mix_heads(gates, full, windowed, out);
  }
  void mix_heads_backward(Rows gates, StoredRows full, Rows windowed, Rows d_out, Rows d_gates,
                          Rows d_windowed) override {
    rows_.mix_heads_backward(gates, full, windowed, d_out, d_gates, d_windowed);
  }

  void rms_norm_backward(Rows x, const Vector& weight, float eps, Rows d_out, Rows residual,
                         Rows d_x) override {
    rows_.norm_backward(x, weight, eps, d_out, residual, d_x);
  }
  void head_norm_backward(Rows x, const Vector& weight, float eps, Rows d_out, Rows d_x) override {
    rows_.norm_backward(x, weight, eps, d_out, {}, d_x);
  }
  void linear_backward(const Linear& weights, Rows d_out, Rows d_x) override {
    linear_.run(weights, d_out, d_x);
  }
  void swiglu_backward(Rows gate_up, Rows d_out, Rows d_gate_up) override {
    rows_.swiglu_backward(gate_up, d_out, d_gate_up);
  }
  void mean_squared_error(Rows x, Rows target, Rows loss, Rows d_x) override {
    RowBackward::mean_squared_error(x, target, loss, d_x);
  }

 private:
  LinearBackwardRunner linear_;
  RowBackward rows_;
  WindowAttention attention_;
};

}  // namespace

std::unique_ptr<TrainOps> make_train_ops(ThreadPool& pool, const Kernels& kernels) {
  return std::make_unique<CpuTrainOps>(pool, kernels);
}

}  // namespace sedpa::cpu
