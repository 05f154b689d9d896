#include "sedpa/backend/cuda/cuda_ops.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "sedpa/backend/cuda/attention.h"
#include "sedpa/backend/cuda/ceilings.h"
#include "sedpa/backend/cuda/decode_program.h"
#include "sedpa/backend/cuda/dense_ops.h"
#include "sedpa/backend/cuda/device.h"
#include "sedpa/backend/cuda/elementwise.h"
#include "sedpa/backend/cuda/fusion.h"
#include "sedpa/backend/cuda/linear.h"
#include "sedpa/backend/cuda/step_memory.h"
#include "sedpa/backend/cuda/train_ops.h"
#include "sedpa/core/fail.h"

namespace sedpa {

namespace {

using namespace cuda;

constexpr int kOldestCompute = 80;

/// The stream of an Ops instance.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { (void)cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  [[nodiscard]] cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A pass of one token, recorded once and replayed at any length.
struct Recording {
  StepKey key;
  OpList ops;  // what it does; another list under the same key takes its place
  cudaGraphExec_t graph = nullptr;
  std::unique_ptr<DecodeProgram> program;  // memory that the graph reads

  Recording(StepKey step, OpList list, cudaGraphExec_t executable,
            std::unique_ptr<DecodeProgram> phases)
      : key(step), ops(std::move(list)), graph(executable), program(std::move(phases)) {}
  Recording(Recording&& other) noexcept
      : key(other.key),
        ops(std::move(other.ops)),
        graph(std::exchange(other.graph, nullptr)),
        program(std::move(other.program)) {}
  Recording& operator=(Recording&& other) noexcept {
    key = other.key;
    ops.swap(other.ops);
    std::swap(graph, other.graph);
    program.swap(other.program);
    return *this;
  }
  ~Recording() {
    if (graph != nullptr) (void)cudaGraphExecDestroy(graph);
  }
};

/// Jobs of one token become phases of a program while this lives.
class ProgramScope {
 public:
  ProgramScope(DecodeProgram& program, LinearRunner& linear, AttentionRunner& attention)
      : linear_(linear), attention_(attention) {
    linear_.set_program(&program);
    attention_.set_program(&program);
  }
  ~ProgramScope() {
    linear_.set_program(nullptr);
    attention_.set_program(nullptr);
  }
  ProgramScope(const ProgramScope&) = delete;
  ProgramScope& operator=(const ProgramScope&) = delete;

 private:
  LinearRunner& linear_;
  AttentionRunner& attention_;
};

/// Whether a launch may become part of a program.
bool may_join(const Launch& launch) {
  return std::holds_alternative<LinearJob>(launch) ||
         std::holds_alternative<std::vector<LinearJob>>(launch) ||
         std::holds_alternative<MlpJob>(launch) || std::holds_alternative<AttentionJob>(launch);
}

/// Writes down what a pass asks for, joins neighbours and launches them; a pass of one token as a
/// CUDA graph. Operations asked for outside `run` are launched at once, each alone.
class CudaOps final : public Ops {
 public:
  explicit CudaOps(const CudaOptions& options)
      : device_(device_traits(options.device)),
        scope_(options.device),
        steps_(stream_.get()),
        linear_(device_, stream_.get()),
        attention_(device_, stream_.get()),
        train_(make_train_ops(stream_.get(), [this] { flush(); })),
        dense_(make_dense_ops(stream_.get())),
        argmax_(sizeof(ArgmaxScratch)),
        pinned_(kPinnedBytes) {
    check(cudaMemsetAsync(argmax_.data(), 0, sizeof(ArgmaxScratch), stream_.get()));
  }
  ~CudaOps() override { (void)cudaStreamSynchronize(stream_.get()); }

  [[nodiscard]] OpsTraits traits() const override {
    std::size_t free_bytes = 0;
    std::size_t total_bytes = 0;
    check(cudaMemGetInfo(&free_bytes, &total_bytes));
    return {.device = fmt::format("cuda:{}", device_.index),
            .chunk_tokens = kChunkTokens,
            .available_bytes = free_bytes};
  }

  [[nodiscard]] TrainOps& train() override { return *train_; }
  [[nodiscard]] DenseOps* dense() override { return dense_.get(); }

  // --- Memory -------------------------------------------------------------------------------
  Buffer allocate(std::size_t bytes) override {
    const DeviceMemory memory(bytes);
    if (bytes > 0) check(cudaMemsetAsync(memory.data(), 0, bytes, stream_.get()));
    return {.data = memory.data(), .bytes = bytes, .storage = memory.storage()};
  }
  Weight make_weight(std::span<const MatrixSource> bands) override {
    return cuda::make_weight(bands, stream_.get());
  }
  [[nodiscard]] std::size_t weight_bytes(Dtype dtype, std::int64_t rows,
                                         std::int64_t cols) const override {
    return band_bytes(dtype, rows, cols);
  }
  Vector make_vector(std::span<const float> values) override {
    const DeviceMemory memory(values.size_bytes());
    copy_from_host(reinterpret_cast<const std::byte*>(values.data()), memory.data(),
                   values.size_bytes());
    return {.data = reinterpret_cast<const float*>(memory.data()),
            .size = static_cast<std::int64_t>(values.size()),
            .bytes = values.size_bytes(),
            .storage = memory.storage()};
  }
  [[nodiscard]] std::size_t scratch_bytes(const OpsPlan& plan) const override {
    return StepMemory::scratch_bytes(plan) + linear_.scratch_bytes(plan) +
           attention_.scratch_bytes(plan);
  }
  void reserve(const OpsPlan& plan) override {
    check(cudaStreamSynchronize(stream_.get()));
    recordings_.clear();
    steps_.reserve(plan);
    linear_.reserve(plan);
    attention_.reserve(plan);
  }

  void read(Rows rows, float* host) override {
    flush();
    if (rows.rows == 0 || rows.cols == 0) return;
    const auto width = static_cast<std::size_t>(rows.cols) * sizeof(float);
    const auto pitch = static_cast<std::size_t>(rows.stride) * sizeof(float);
    // Through page-locked memory, which the device writes at the speed of the bus.
    const auto fit = std::max<std::int64_t>(1, static_cast<std::int64_t>(kPinnedBytes / width));
    for (std::int64_t first = 0; first < rows.rows; first += fit) {
      const auto count = static_cast<std::size_t>(std::min(fit, rows.rows - first));
      std::byte* to = width <= kPinnedBytes
                          ? pinned_.data()
                          : reinterpret_cast<std::byte*>(host + first * rows.cols);
      check(cudaMemcpy2DAsync(to, width, rows.row(first), pitch, width, count,
                              cudaMemcpyDeviceToHost, stream_.get()));
      check(cudaStreamSynchronize(stream_.get()));
      if (width <= kPinnedBytes) std::memcpy(host + first * rows.cols, to, width * count);
    }
  }
  std::int32_t argmax(Rows row) override {
    flush();
    cuda::argmax(row.data, row.cols, reinterpret_cast<ArgmaxScratch*>(argmax_.data()),
                 reinterpret_cast<std::int32_t*>(pinned_.data()), stream_.get());
    check(cudaStreamSynchronize(stream_.get()));
    std::int32_t index = 0;
    std::memcpy(&index, pinned_.data(), sizeof index);
    return index;
  }
  void copy_to_host(const std::byte* from, std::byte* host, std::size_t bytes) override {
    flush();
    if (bytes == 0) return;
    check(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_.get()));
    check(cudaStreamSynchronize(stream_.get()));
  }
  void copy_from_host(const std::byte* host, std::byte* to, std::size_t bytes) override {
    flush();
    if (bytes == 0) return;
    check(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, stream_.get()));
    check(cudaStreamSynchronize(stream_.get()));
  }
  void repeat(std::span<const std::byte> pattern, std::byte* to, std::size_t bytes) override {
    std::size_t done = std::min(pattern.size(), bytes);
    copy_from_host(pattern.data(), to, done);
    while (done > 0 && done < bytes) {
      const std::size_t more = std::min(done, bytes - done);
      check(cudaMemcpyAsync(to + done, to, more, cudaMemcpyDeviceToDevice, stream_.get()));
      done += more;
    }
    check(cudaStreamSynchronize(stream_.get()));
  }

  // --- A step -------------------------------------------------------------------------------
  void begin_step(const Step& step, const KvCache& cache) override {
    steps_.begin(step, cache);
    attention_.begin_step(steps_.state(), cache, step.past,
                          static_cast<std::int64_t>(step.tokens.size()));
  }

  void run(const StepKey& key, const std::function<void()>& body) override {
    if (const auto known = find(key); key.owner != 0 && known != recordings_.end()) {
      check(cudaGraphLaunch(known->graph, stream_.get()));
      return;
    }
    ops_.clear();
    recording_ = true;
    flushed_ = false;
    try {
      body();
    } catch (...) {
      recording_ = false;
      ops_.clear();
      throw;
    }
    recording_ = false;
    if (flushed_) {
      flush();
    } else if (key.tokens == 1) {
      replay(key);
    } else {
      for (const Launch& launch : fuse(ops_)) perform(launch);
    }
    ops_.clear();
  }

  // --- Operations ---------------------------------------------------------------------------
  void embed(const Weight& table, Rows out) override { submit(EmbedOp{&table, out}); }
  void rms_norm(Rows x, const Vector& weight, float eps, Rows out) override {
    submit(NormOp{x, weight.data, x.cols, eps, out});
  }
  void head_norm(Rows x, const Vector& weight, float eps, Rows out) override {
    submit(NormOp{x, weight.data, weight.size, eps, out});
  }
  void linear(const Linear& weights, Rows x, Rows out) override {
    submit(LinearOp{&weights, x, {}, out});
  }
  void linear_add(const Linear& weights, Rows x, Rows residual, Rows out) override {
    submit(LinearOp{&weights, x, residual, out});
  }
  void rope(Rows qkv, const LayerShape& shape) override { submit(RopeOp{qkv, &shape}); }
  void attention(Rows qkv, const LayerShape& shape, const KvLayer& cache, Rows out) override {
    submit(AttentionOp{qkv, &shape, &cache, out});
  }
  void commit(Rows qkv, const LayerShape& shape, const KvLayer& cache) override {
    submit(CommitOp{qkv, &shape, &cache});
  }
  void swiglu(Rows gate_up, Rows out) override { submit(SwigluOp{gate_up, out}); }
  void clear(Rows out) override { submit(ClearOp{out}); }

 private:
  static constexpr std::size_t kPinnedBytes = std::size_t{4} << 20;
  static constexpr std::int64_t kChunkTokens = 4096;
  static constexpr std::size_t kMostRecordings = 4;

  void submit(const Op& op) {
    if (recording_) {
      ops_.push_back(op);
    } else {
      perform(alone(op));
    }
  }

  /// Launches what has been written down so far, each operation alone: whoever reads in the middle
  /// of a pass finds every row where the text says it is. The rest of the pass then goes the same
  /// way.
  void flush() {
    flushed_ = true;
    for (const Op& op : ops_) perform(alone(op));
    ops_.clear();
  }

  void perform(const Launch& launch) {
    std::visit([this](const auto& job) { perform(job); }, launch);
  }
  void perform(const EmbedOp& op) {
    cuda::embed(*op.table, steps_.state().ids, op.out, stream_.get());
  }
  void perform(const NormOp& op) {
    norm(op.x, op.weight, op.width, op.epsilon, op.out, stream_.get());
  }
  void perform(const SwigluOp& op) { cuda::swiglu(op.gate_up, op.out, stream_.get()); }
  void perform(const ClearOp& op) {
    check(cudaMemset2DAsync(op.out.data, static_cast<std::size_t>(op.out.stride) * sizeof(float), 0,
                            static_cast<std::size_t>(op.out.cols) * sizeof(float),
                            static_cast<std::size_t>(op.out.rows), stream_.get()));
  }
  void perform(const LinearJob& job) { linear_.run(job); }
  void perform(const std::vector<LinearJob>& jobs) { linear_.run(jobs); }
  void perform(const MlpJob& job) { linear_.run(job); }
  void perform(const AttentionJob& job) { attention_.run(job); }

  std::vector<Recording>::iterator find(const StepKey& key) {
    return std::find_if(recordings_.begin(), recordings_.end(),
                        [&](const Recording& r) { return r.key == key; });
  }

  void replay(const StepKey& key) {
    auto found = find(key);
    if (found == recordings_.end() || found->ops != ops_) {
      if (found != recordings_.end()) recordings_.erase(found);
      if (recordings_.size() == kMostRecordings) recordings_.erase(recordings_.begin());
      recordings_.push_back(record(key));
      found = recordings_.end() - 1;
    }
    check(cudaGraphLaunch(found->graph, stream_.get()));
  }

  Recording record(const StepKey& key) {
    auto program = std::make_unique<DecodeProgram>(device_, stream_.get());
    cudaGraph_t graph = nullptr;
    {
      const ProgramScope scope(*program, linear_, attention_);
      check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
      try {
        program->begin();
        for (const Launch& launch : fuse(ops_)) {
          if (!may_join(launch)) program->flush();
          perform(launch);
        }
        program->flush();
      } catch (...) {
        (void)cudaStreamEndCapture(stream_.get(), &graph);
        if (graph != nullptr) (void)cudaGraphDestroy(graph);
        throw;
      }
      check(cudaStreamEndCapture(stream_.get(), &graph));
    }
    cudaGraphExec_t executable = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    (void)cudaGraphDestroy(graph);
    check(status);
    program->upload();
    return {key, ops_, executable, std::move(program)};
  }

  DeviceTraits device_;
  DeviceScope scope_;
  Stream stream_;
  StepMemory steps_;
  LinearRunner linear_;
  AttentionRunner attention_;
  std::unique_ptr<TrainOps> train_;
  std::unique_ptr<DenseOps> dense_;
  DeviceMemory argmax_;  // ArgmaxScratch
  PinnedMemory pinned_;
  OpList ops_;  // of the pass that is being written down
  bool recording_ = false;
  bool flushed_ = false;  // somebody has read in the middle of the pass
  std::vector<Recording> recordings_;
};

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(const CudaOptions& options) {
  std::string why;
  const std::vector<CudaDevice> devices = cuda_devices(&why);
  if (devices.empty()) fail("device cuda:{}: no NVIDIA GPU can be used: {}", options.device, why);
  if (options.device < 0 || options.device >= static_cast<int>(devices.size())) {
    fail("device is cuda:{}, but there {}: expected cuda:0{}", options.device,
         devices.size() == 1 ? "is one GPU" : fmt::format("are {} GPUs", devices.size()),
         devices.size() == 1 ? "" : fmt::format(" to cuda:{}", devices.size() - 1));
  }
  const CudaDevice& device = devices[static_cast<std::size_t>(options.device)];
  if (10 * device.major + device.minor < kOldestCompute) {
    fail("cuda:{} is a {} of compute capability {}.{}, expected {}.{} or newer", options.device,
         device.name, device.major, device.minor, kOldestCompute / 10, kOldestCompute % 10);
  }
  check(cudaSetDevice(options.device));
  return std::make_unique<CudaOps>(options);
}

CudaCeilings measure_cuda_ceilings(int device) {
  const DeviceScope scope(device);
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes));
  const std::size_t bytes = ceilings_bytes(free_bytes);
  if (bytes == 0) return {};
  const DeviceMemory memory(bytes);
  const Stream stream;
  const MeasuredCeilings found =
      measure_ceilings(memory.data(), bytes, device_traits(device).multiprocessors, stream.get());
  return {.read_bytes_per_second = found.read_bytes_per_second,
          .copy_bytes_per_second = found.copy_bytes_per_second,
          .bf16_flops_per_second = found.bf16_flops_per_second};
}

}  // namespace sedpa
