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
  std::size_t queries = 0;  // [kv_heads, max_tokens * group, tile_dim] 16-bit
  std::size_t keys = 0;     // [kv_heads, max_tokens, tile_dim] 16-bit
  std::size_t values = 0;   // [kv_heads, max_tokens, tile_dim] 16-bit
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
  const std::int64_t tile_dim = padded_head_dim(shape.head_dim);
  const std::int64_t part_dim =
      std::max<std::int64_t>(tile_dim, program_tile_dim(padded_head_dim(shape.head_dim)));
  pieces = std::max(2, device.multiprocessors);
  row_blocks = static_cast<std::int32_t>((group + kDecodeRows - 1) / kDecodeRows);
  part_floats = std::min<std::int64_t>(group, kDecodeRows) * (part_dim + 2);
  const std::int64_t units = std::int64_t{shape.kv_heads} * row_blocks;
  const std::int64_t rows = plan.max_tokens > 1 ? shape.kv_heads * plan.max_tokens : 0;
  const auto take = [&](std::int64_t size) {
    const std::size_t at = bytes;
    bytes += aligned(size);
    return at;
  };
  arrived = take(units * 4);
  parts = take(pieces * part_floats * 4);
  queries = take(rows * group * tile_dim * 2);
  keys = take(rows * tile_dim * 2);
  values = take(rows * tile_dim * 2);
}

/// Of a layer's tiles: the model's, or the least where that is enough. Every kernel knows these
/// two.
int tile_dim_of(const LayerShape& shape, int head_dim) {
  std::int32_t widest = 0;
  for (const HeadColumns& head : shape.heads) {
    widest = std::max({widest, head.key_dim, head.value_dim});
  }
  return padded_head_dim(widest <= kLeastTileDim ? widest : head_dim);
}

HeadTable table_of(const LayerShape& shape) {
  HeadTable table;
  std::size_t i = 0;
  for (const HeadColumns& head : shape.heads) {
    table.keys[i + 1] = static_cast<std::uint16_t>(table.keys[i] + head.key_dim / 2);
    table.values[i + 1] = static_cast<std::uint16_t>(table.values[i] + head.value_dim / 2);
    ++i;
  }
  return table;
}

/// Whether the rows of a class can be copied in pieces of 16 bytes.
bool in_whole_pieces(const ClassParams& of) {
  constexpr std::int32_t kPiece = 16;
  const auto begins_one = [](const std::byte* rows) {
    return reinterpret_cast<std::uintptr_t>(rows) % kPiece == 0;
  };
  return of.heads == 0 || (of.key_row_bytes % kPiece == 0 && of.value_row_bytes % kPiece == 0 &&
                           begins_one(of.keys) && begins_one(of.values));
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
  DecodeRoom decode[2];  // of rows that are converted, and of rows in whole pieces
  PrefillRoom prefill;

  // The step.
  StepState state;
  HeadClass classes[kHeadClasses];
  KvDtype dtype = KvDtype::f16;
  bool prepared = false;  // the decode kernels of `dtype`
  bool sm90 = false;      // full heads' prompts by the Hopper kernel
  std::int64_t past = 0;
  std::int64_t tokens = 0;

  void prepare(KvDtype new_dtype);
  [[nodiscard]] AttentionParams params_of(const AttentionJob& job) const;
  void add_cache(const AttentionJob& job, AttentionParams& p) const;
  [[nodiscard]] const DecodeRoom& decode_room(bool whole_pieces) const;
  [[nodiscard]] std::int32_t heads_together(const AttentionParams& params) const;
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
  DecodeRoom decode;
  decode.arrived = reinterpret_cast<std::int32_t*>(at + layout.arrived);
  decode.parts = reinterpret_cast<float*>(at + layout.parts);
  decode.part_floats = layout.part_floats;
  decode.pieces = layout.pieces;
  decode.row_blocks = layout.row_blocks;
  std::fill(std::begin(s.decode), std::end(s.decode), decode);
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
  const int tile_dim = padded_head_dim(shape.head_dim);
  // Half of a multiprocessor's, so that the kernel behind is there already and fills its ring.
  const std::size_t shared_bytes = device.shared_bytes_a_block / 2;
  const std::int64_t row_bytes = kv_row_bytes(dtype, shape.head_dim);
  decode_layout(tile_dim, shape.group(), static_cast<int>(row_bytes), shared_bytes, decode[0]);
  decode_layout(tile_dim, shape.group(), 0, shared_bytes, decode[1]);
  (void)decode_room(is_16_bit(dtype));
  prepare_decode(dtype, tile_dim, shared_bytes);
  prepare_decode(dtype, kLeastTileDim, shared_bytes);
  sm90 = prefill_sm90_runs(device.compute);
  prepared = true;
}

const DecodeRoom& AttentionRunner::Impl::decode_room(bool whole_pieces) const {
  const DecodeRoom& room = decode[whole_pieces ? 1 : 0];
  if (room.stages == 0) {
    fail("decode of {} query rows a KV head of size {} does not fit in {} bytes of shared memory",
         shape.group(), shape.head_dim, device.shared_bytes_a_block);
  }
  return room;
}

/// Heads whose keys and values take no more than half of L2, so that what one block has read is
/// still there when another block of the same head comes to it.
std::int32_t AttentionRunner::Impl::heads_together(const AttentionParams& params) const {
  const std::int64_t bytes_a_head = (past + tokens) * 2 * params.tile_dim * std::int64_t{2};
  const auto fit = static_cast<std::int64_t>(device.l2_bytes / 2) / bytes_a_head;
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(fit, 1, params.kv_heads));
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

AttentionParams AttentionRunner::Impl::params_of(const AttentionJob& job) const {
  const LayerShape& heads = *job.shape;
  if (std::ssize(heads.heads) != shape.kv_heads) {
    fail("layer of {} KV heads: reserved for {}", heads.heads.size(), shape.kv_heads);
  }
  for (const HeadColumns& head : heads.heads) {
    for (const std::int32_t dim : {head.key_dim, head.value_dim}) {
      if (dim < 2 || dim % 2 != 0 || dim > shape.head_dim) {
        fail("head of {} numbers, expected an even number up to {}", dim, shape.head_dim);
      }
    }
  }
  AttentionParams p;
  p.scale_log2 = shape.scale * std::numbers::log2e_v<float>;
  p.query_heads = shape.query_heads;
  p.kv_heads = shape.kv_heads;
  p.group = shape.group();
  p.head_dim = shape.head_dim;
  p.tile_dim = tile_dim_of(heads, shape.head_dim);
  p.table = table_of(heads);
  p.planes = heads.planes;
  p.dtype = dtype;
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
  if (job.cache != nullptr) add_cache(job, p);
  return p;
}

void AttentionRunner::Impl::add_cache(const AttentionJob& job, AttentionParams& p) const {
  for (int which = 0; which < kHeadClasses; ++which) {
    const KvBlock& block = job.cache->blocks[which];
    const HeadClass& kept = classes[which];
    p.classes[which] = {.keys = block.keys,
                        .values = block.values,
                        .key_dim = block.key_dim,
                        .value_dim = block.value_dim,
                        .key_row_bytes = static_cast<std::int32_t>(block.key_row_bytes),
                        .value_row_bytes = static_cast<std::int32_t>(block.value_row_bytes),
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
  for (int which = 0; which < kHeadClasses; ++which) {
    const ClassParams& of = p.classes[which];
    for (int i = 0; i < of.heads; ++i) {
      const int head = p.kv_head(which, i);
      if (p.key_dim(head) > of.key_dim || p.value_dim(head) > of.value_dim) {
        fail("KV head {} has {} and {} numbers, rows of the KV cache {} and {}", head,
             p.key_dim(head), p.value_dim(head), of.key_dim, of.value_dim);
      }
    }
  }
  p.whole_pieces =
      is_16_bit(dtype) && std::all_of(std::begin(p.classes), std::end(p.classes), in_whole_pieces);
}

void AttentionRunner::set_program(DecodeProgram* program) { impl_->program = program; }

void AttentionRunner::run(const AttentionJob& job) {
  Impl& s = *impl_;
  if (job.qkv.cols != job.shape->qkv_cols || job.qkv.rows != s.tokens) {
    fail("qkv is {} x {} numbers: expected {} x {}", job.qkv.rows, job.qkv.cols, s.tokens,
         job.shape->qkv_cols);
  }
  if ((job.attend || job.commit) && job.cache == nullptr) {
    fail("attention without a layer of the KV cache");
  }
  const bool prepares = job.rotate || job.query_norm != nullptr || job.key_norm != nullptr;
  AttentionParams params = s.params_of(job);
  const bool windows = params.has_windows();

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
  if (job.out.cols != job.shape->out_cols || job.out.rows != s.tokens) {
    fail("attention's result is {} x {} numbers: expected {} x {}", job.out.rows, job.out.cols,
         s.tokens, job.shape->out_cols);
  }
  if (s.tokens == 1) {
    const DecodeRoom& room = s.decode_room(params.whole_pieces);
    if (s.program != nullptr) {
      if (s.program->add(params, room)) return;
      s.program->flush();
    }
    launch_decode(params, room, s.stream);
    return;
  }
  PrefillRoom room = s.prefill;
  room.tokens = static_cast<std::int32_t>(s.tokens);
  room.past = static_cast<std::int32_t>(s.past);
  room.heads_together = s.heads_together(params);
  launch_stage(params, room, s.stream);
  const bool sm90 = s.sm90 && prefill_sm90_takes(params);
  if (sm90) launch_prefill_sm90(params, room, s.stream);
  launch_prefill(params, room, sm90, s.stream);
  // A window's slots may hold what the chunk still had to see: they are overwritten last.
  if (job.commit && windows) launch_commit(params, s.tokens, false, true, s.stream);
}

}  // namespace sedpa::cuda
