#include "sedpa/backend/cpu/cpu_ops.h"

#include <algorithm>
#include <cstring>

#include "sedpa/backend/cpu/attention.h"
#include "sedpa/backend/cpu/elementwise.h"
#include "sedpa/backend/cpu/kernels.h"
#include "sedpa/backend/cpu/linear.h"
#include "sedpa/backend/cpu/train_ops.h"
#include "sedpa/backend/cpu/weights.h"
#include "sedpa/core/argmax.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/memory.h"

namespace sedpa {
namespace {

/// Hands each operation to the part that knows it. Everything has been done when a call returns.
class CpuOps final : public Ops {
 public:
  CpuOps(const CpuOptions& options, Isa isa)
      : compute_(options.compute),
        pool_(options.threads),
        linear_(pool_, cpu::kernels(isa)),
        elementwise_(pool_, cpu::kernels(isa)),
        // Attention is fast by bf16 pairs, which cost more than any other rounding.
        attention_(pool_, isa, options.compute == Compute::bf16 ? Compute::fast : Compute::f32),
        train_(cpu::make_train_ops(pool_, cpu::kernels(isa))) {}

  [[nodiscard]] OpsTraits traits() const override {
    return {.device = "cpu", .chunk_tokens = 512, .available_bytes = available_memory()};
  }

  [[nodiscard]] TrainOps& train() override { return *train_; }

  Buffer allocate(std::size_t bytes) override {
    auto pages = std::make_shared<Pages>(bytes);
    return {.data = pages->data(), .bytes = bytes, .storage = pages};
  }
  Weight make_weight(std::span<const MatrixSource> bands) override {
    return cpu::make_weight(bands, compute_, pool_, arena_);
  }
  [[nodiscard]] std::size_t weight_bytes(Dtype dtype, std::int64_t rows,
                                         std::int64_t cols) const override {
    return cpu::band_bytes(dtype, rows, cols, compute_);
  }
  Vector make_vector(std::span<const float> values) override {
    const cpu::PageArena::Piece piece = arena_.take(values.size_bytes());
    if (!values.empty()) std::memcpy(piece.data, values.data(), values.size_bytes());
    return {.data = reinterpret_cast<const float*>(piece.data),
            .size = static_cast<std::int64_t>(values.size()),
            .bytes = values.size_bytes(),
            .storage = piece.storage};
  }

  [[nodiscard]] std::size_t scratch_bytes(const OpsPlan& plan) const override {
    return linear_.scratch_bytes(plan) + cpu::ElementwiseRunner::scratch_bytes(plan) +
           CpuAttention::scratch_bytes(plan, pool_.size(), compute_);
  }
  void reserve(const OpsPlan& plan) override {
    linear_.reserve(plan);
    elementwise_.reserve(plan);
    attention_.reserve(plan);
  }

  void read(Rows rows, float* host) override {
    for (std::int64_t i = 0; i < rows.rows; ++i) {
      std::copy_n(rows.row(i), rows.cols, host + i * rows.cols);
    }
  }
  std::int32_t argmax(Rows row) override {
    return sedpa::argmax({row.data, static_cast<std::size_t>(row.cols)});
  }
  void copy_to_host(const std::byte* from, std::byte* host, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(host, from, bytes);
  }
  void copy_from_host(const std::byte* host, std::byte* to, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(to, host, bytes);
  }
  void repeat(std::span<const std::byte> pattern, std::byte* to, std::size_t bytes) override {
    for (std::size_t done = 0; done < bytes; done += pattern.size()) {
      std::memcpy(to + done, pattern.data(), std::min(pattern.size(), bytes - done));
    }
  }

  void begin_step(const Step& step, const KvCache& cache) override {
    elementwise_.begin_step(step);
    attention_.begin_step(step, cache);
  }
  void run(const StepKey&, const std::function<void()>& body) override { body(); }

  void embed(const Weight& table, Rows out) override { elementwise_.embed(table, out); }
  void rms_norm(Rows x, const Vector& weight, float eps, Rows out) override {
    elementwise_.rms_norm(x, weight, eps, out);
  }
  void head_norm(Rows x, const Vector& weight, float eps, Rows out) override {
    elementwise_.head_norm(x, weight, eps, out);
  }
  void linear(const Linear& weights, Rows x, Rows out) override {
    linear_.run(weights, x, {}, out);
  }
  void linear_add(const Linear& weights, Rows x, Rows residual, Rows out) override {
    linear_.run(weights, x, residual, out);
  }
  void rope(Rows qkv, const LayerShape& shape) override { elementwise_.rope(qkv, shape); }
  void attention(Rows qkv, const LayerShape& shape, const KvLayer& cache, Rows out) override {
    attention_.attention(qkv, shape, cache, out);
  }
  void commit(Rows qkv, const LayerShape& shape, const KvLayer& cache) override {
    attention_.commit(qkv, shape, cache);
  }
  void swiglu(Rows gate_up, Rows out) override { elementwise_.swiglu(gate_up, out); }
  void clear(Rows out) override {
    for (std::int64_t i = 0; i < out.rows; ++i) std::fill_n(out.row(i), out.cols, 0.0f);
  }

 private:
  Compute compute_;
  ThreadPool pool_;
  cpu::PageArena arena_;
  cpu::LinearRunner linear_;
  cpu::ElementwiseRunner elementwise_;
  CpuAttention attention_;
  std::unique_ptr<TrainOps> train_;
};

}  // namespace

std::unique_ptr<Ops> make_cpu_ops(const CpuOptions& options) {
  if (options.threads < 0) fail("threads is {}, it must be at least 0", options.threads);
  return std::make_unique<CpuOps>(options, options.any_isa ? best_isa() : options.isa);
}

}  // namespace sedpa
