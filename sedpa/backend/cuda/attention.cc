#include "sedpa/backend/cuda/attention.h"

#include <algorithm>
#include <limits>
#include <numbers>

#include "sedpa/backend/cuda/attention_params.h"
#include "sedpa/backend/cuda/decode_program.h"
#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t aligned(std::int64_t bytes) {
  return (static_cast<std::size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
}

/// Where things stand in scratch, in bytes.
struct ScratchLayout {
  std::size_t arrived = 0;  // [units] int32
  std::size_t parts = 0;    // [pieces, part_floats]
  std::size_t queries = 0;  // [kv_heads, max_tokens * group, padded dim] 16-bit
  std::size_t keys = 0;     // [kv_heads, max_tokens, padded dim] 16-bit
  std::size_t values = 0;   // [kv_heads, max_tokens, padded dim] 16-bit
  std::size_t bytes = 0;
  std::int64_t part_floats = 0;
  std::int32_t pieces = 0;
  std::int32_t row_blocks = 0;  // of 16 query rows, of a head

  ScratchLayout(const OpsPlan& plan, const DeviceTraits& device);
};

void check_shape(const OpsPlan& plan) {
  const AttentionShape& shape = plan.attention;
  if (shape.kv_heads < 1 || shape.query_heads < shape.kv_heads ||
      shape.query_heads % shape.kv_heads != 0) {
    fail("attention of {} query heads on {} KV heads: expected a multiple", shape.query_heads,
         shape.kv_heads);
  }
  if (shape.kv_heads > kMostKvHeads) {
    fail("attention has {} KV heads: the CUDA backend takes up to {}", shape.kv_heads,
         kMostKvHeads);
  }
  if (shape.head_dim < 2 || shape.head_dim % 2 != 0 || shape.head_dim > kMostHeadDim) {
    fail("attention has head size {}: the CUDA backend takes even sizes up to {}", shape.head_dim,
         kMostHeadDim);
  }
  if (!(shape.scale > 0)) {
    fail("attention scale is {}: expected a number above 0", shape.scale);
  }
  if (plan.rope.dim > shape.head_dim) {
    fail("RoPE turns {} numbers of heads of {}", plan.rope.dim, shape.head_dim);
  }
  if (plan.max_tokens > 0 &&
      plan.max_tokens > std::numeric_limits<std::int32_t>::max() / shape.group()) {
    fail("attention chunks of {} tokens are too long", plan.max_tokens);
  }
}

ScratchLayout::ScratchLayout(const OpsPlan& plan, const DeviceTraits& device) {
  check_shape(plan);
  const AttentionShape& shape = plan.attention;
  const std::int64_t group = shape.group();
  const std::int64_t padded = padded_head_dim(shape.head_dim);
  pieces = std::max(2, device.multiprocessors);
  row_blocks = static_cast<std::int32_t>((group + kDecodeRows - 1) / kDecodeRows);
  part_floats = std::min<std::int64_t>(group, kDecodeRows) * (padded + 2);
  const std::int64_t units = std::int64_t{shape.kv_heads} * row_blocks;
  const std::int64_t rows = plan.max_tokens > 1 ? shape.kv_heads * plan.max_tokens : 0;
  const auto take = [&](std::int64_t size) {
    const std::size_t at = bytes;
    bytes += aligned(size);
    return at;
  };
  arrived = take(units * 4);
  parts = take(pieces * part_floats * 4);
  queries = take(rows * group * padded * 2);
  keys = take(rows * padded * 2);
  values = take(rows * padded * 2);
}

}  // namespace

struct AttentionRunner::Impl {
  DeviceTraits device;
  cudaStream_t stream = nullptr;
  DecodeProgram* program = nullptr;  // that takes attention of one token, when there is one

  // The plan.
  AttentionShape shape;
  std::int64_t max_tokens = 0;
  DeviceMemory scratch;
  DecodeRoom decode;
  PrefillRoom prefill;

  // The step.
  StepState state;
  HeadClass classes[kHeadClasses];
  KvDtype dtype = KvDtype::f16;
  bool prepared = false;  // the decode kernel of `dtype`
  bool sm90 = false;      // full heads' prompts by the Hopper kernel
  std::int64_t past = 0;
  std::int64_t tokens = 0;

  void prepare(KvDtype new_dtype);
  [[nodiscard]] AttentionParams base_params() const;
  [[nodiscard]] AttentionParams params_of(const AttentionJob& job) const;
};

AttentionRunner::AttentionRunner(const DeviceTraits& device, cudaStream_t stream)
    : impl_(std::make_unique<Impl>()) {
  impl_->device = device;
  impl_->stream = stream;
}

AttentionRunner::~AttentionRunner() = default;

std::size_t AttentionRunner::scratch_bytes(const OpsPlan& plan) const {
  return ScratchLayout(plan, impl_->device).bytes;
}

void AttentionRunner::reserve(const OpsPlan& plan) {
  Impl& s = *impl_;
  const ScratchLayout layout(plan, s.device);
  s.shape = plan.attention;
  s.max_tokens = plan.max_tokens;
  s.scratch = DeviceMemory();  // give the old one back first
  s.scratch = DeviceMemory(layout.bytes);
  std::byte* const at = s.scratch.data();
  // Counters are zero between launches from here on; the kernel that counts resets them.
  check(cudaMemsetAsync(at + layout.arrived, 0, layout.parts - layout.arrived, s.stream));
  s.decode = {};
  s.decode.arrived = reinterpret_cast<std::int32_t*>(at + layout.arrived);
  s.decode.parts = reinterpret_cast<float*>(at + layout.parts);
  s.decode.part_floats = layout.part_floats;
  s.decode.pieces = layout.pieces;
  s.decode.row_blocks = layout.row_blocks;
  s.prefill = {};
  s.prefill.queries = reinterpret_cast<std::uint16_t*>(at + layout.queries);
  s.prefill.keys = reinterpret_cast<std::uint16_t*>(at + layout.keys);
  s.prefill.values = reinterpret_cast<std::uint16_t*>(at + layout.values);
  s.prepared = false;
  s.tokens = 0;
}

// What depends on the KV dtype, once: nothing of it may happen within a capture.
void AttentionRunner::Impl::prepare(KvDtype new_dtype) {
  if (prepared && new_dtype == dtype) return;
  dtype = new_dtype;
  decode_layout(base_params(), device.shared_bytes_a_block, decode);
  if (decode.stages == 0) {
    fail("decode of {} query rows a KV head of size {} does not fit in {} bytes of shared memory",
         shape.group(), shape.head_dim, device.shared_bytes_a_block);
  }
  prepare_decode(dtype, shape.head_dim, static_cast<std::size_t>(decode.shared_bytes));
  sm90 = prefill_sm90_runs(dtype, shape.head_dim, device.compute);
  prepared = true;
}

void AttentionRunner::begin_step(const StepState& state, const KvCache& cache, std::int64_t past,
                                 std::int64_t tokens) {
  Impl& s = *impl_;
  const KvGeometry& geometry = cache.geometry();
  if (tokens < 1 || tokens > s.max_tokens) {
    fail("attention step of {} tokens: reserved for {}", tokens, s.max_tokens);
  }
  if (geometry.head_dim != s.shape.head_dim) {
    fail("KV cache has head size {}: reserved for {}", geometry.head_dim, s.shape.head_dim);
  }
  s.prepare(geometry.dtype);
  s.state = state;
  std::copy(std::begin(geometry.plan.classes), std::end(geometry.plan.classes), s.classes);
  s.past = past;
  s.tokens = tokens;
}

AttentionParams AttentionRunner::Impl::base_params() const {
  AttentionParams p;
  p.scale_log2 = shape.scale * std::numbers::log2e_v<float>;
  p.query_heads = shape.query_heads;
  p.kv_heads = shape.kv_heads;
  p.group = shape.group();
  p.head_dim = shape.head_dim;
  p.row_bytes = static_cast<std::int32_t>(kv_row_bytes(dtype, shape.head_dim));
  p.dtype = dtype;
  return p;
}

AttentionParams AttentionRunner::Impl::params_of(const AttentionJob& job) const {
  AttentionParams p = base_params();
  p.qkv = job.qkv.data;
  p.qkv_stride = job.qkv.stride;
  p.out = job.out.data;
  p.out_stride = job.out.stride;
  p.query_norm = job.query_norm;
  p.key_norm = job.key_norm;
  p.norm_epsilon = job.norm_epsilon;
  p.rotate = job.rotate;
  p.commit = job.commit;
  p.state = state;
  if (job.cache == nullptr) return p;
  for (int which = 0; which < kHeadClasses; ++which) {
    const KvBlock& block = job.cache->blocks[which];
    const HeadClass& kept = classes[which];
    p.classes[which] = {.keys = block.keys,
                        .values = block.values,
                        .capacity = block.capacity,
                        .heads = block.heads,
                        .full = kept.full,
                        .sink = kept.sink,
                        .middle = kept.middle,
                        .recent = kept.recent};
  }
  const std::vector<std::int32_t>& order = job.cache->heads->order;
  if (static_cast<std::int32_t>(order.size()) != shape.kv_heads) {
    fail("layer of the KV cache has {} heads: reserved for {}", order.size(), shape.kv_heads);
  }
  std::copy(order.begin(), order.end(), p.order);
  return p;
}

void AttentionRunner::set_program(DecodeProgram* program) { impl_->program = program; }

void AttentionRunner::run(const AttentionJob& job) {
  Impl& s = *impl_;
  if (job.qkv.cols != s.shape.qkv_cols() || job.qkv.rows != s.tokens) {
    fail("qkv is {} x {} numbers: expected {} x {}", job.qkv.rows, job.qkv.cols, s.tokens,
         s.shape.qkv_cols());
  }
  if ((job.attend || job.commit) && job.cache == nullptr) {
    fail("attention without a layer of the KV cache");
  }
  const bool prepares = job.rotate || job.query_norm != nullptr || job.key_norm != nullptr;
  AttentionParams params = s.params_of(job);
  const bool windows = std::any_of(std::begin(params.classes), std::end(params.classes),
                                   [](const ClassParams& of) { return !of.full && of.heads > 0; });

  if (!job.attend) {
    if (s.program != nullptr) s.program->flush();
    if (prepares) launch_rope(params, s.tokens, s.stream);
    if (job.commit) {
      params.rotate = false;  // it has been done
      params.key_norm = nullptr;
      launch_commit(params, s.tokens, true, true, s.stream);
    }
    return;
  }
  if (job.out.cols != s.shape.out_cols() || job.out.rows != s.tokens) {
    fail("attention's result is {} x {} numbers: expected {} x {}", job.out.rows, job.out.cols,
         s.tokens, s.shape.out_cols());
  }
  if (s.tokens == 1) {
    if (s.program != nullptr) {
      if (s.program->add(params, s.decode)) return;
      s.program->flush();
    }
    launch_decode(params, s.decode, s.stream);
    return;
  }
  PrefillRoom room = s.prefill;
  room.tokens = static_cast<std::int32_t>(s.tokens);
  room.past = static_cast<std::int32_t>(s.past);
  launch_stage(params, room, s.stream);
  const ClassParams& first = params.classes[kRetrieval];
  const bool sm90 = s.sm90 && first.full && first.heads > 0;
  if (sm90) launch_prefill_sm90(params, room, s.stream);
  launch_prefill(params, room, sm90, s.stream);
  // A window's slots may hold what the chunk still had to see: they are overwritten last.
  if (job.commit && windows) launch_commit(params, s.tokens, false, true, s.stream);
}

}  // namespace sedpa::cuda
