#include "sedpa/backend/cuda/fusion.h"

#include <functional>
#include <utility>

namespace sedpa::cuda {
namespace {

/// The operation at `index` when it is of this kind.
template <class Kind>
const Kind* at(std::span<const Op> ops, std::size_t index) {
  return index < ops.size() ? std::get_if<Kind>(&ops[index]) : nullptr;
}

/// A norm over whole rows whose result the linear behind it reads.
bool feeds(const NormOp& norm, const LinearOp& linear) {
  return norm.width == norm.x.cols && norm.out == linear.x && norm.out.data != norm.x.data;
}

/// How many operations `launches` stand for; 0: none.
struct Joined {
  std::vector<Launch> launches;
  std::size_t count = 0;
};

Joined join_mlp(std::span<const Op> ops) {
  const auto* norm = at<NormOp>(ops, 0);
  const auto* up = at<LinearOp>(ops, 1);
  const auto* swiglu = at<SwigluOp>(ops, 2);
  const auto* down = at<LinearOp>(ops, 3);
  if (norm == nullptr || up == nullptr || swiglu == nullptr || down == nullptr) return {};
  if (!feeds(*norm, *up) || up->residual.data != nullptr || up->out != swiglu->gate_up ||
      swiglu->out != down->x) {
    return {};
  }
  return {{MlpJob{.gate_up = up->linear,
                  .down = down->linear,
                  .x = norm->x,
                  .norm = {norm->weight, norm->epsilon},
                  .act = swiglu->out,
                  .residual = down->residual,
                  .out = down->out}},
          4};
}

/// Whether two sets of rows share a number. Rows of one stride are told apart by their columns.
bool overlap(const Rows& a, const Rows& b) {
  if (a.data == nullptr || b.data == nullptr) return false;
  const std::less<const float*> before;
  const auto end = [](const Rows& rows, std::int64_t count) {
    return rows.data + (count - 1) * rows.stride + rows.cols;
  };
  const Rows& low = before(b.data, a.data) ? b : a;
  const Rows& high = before(b.data, a.data) ? a : b;
  if (low.stride == high.stride && before(high.data, low.data + low.stride)) {
    return before(high.data, end(low, 1)) || before(low.data + low.stride, end(high, 1));
  }
  return before(high.data, end(low, low.rows));
}

/// Products none of which reads or writes what another writes.
bool go_side_by_side(std::span<const LinearJob> jobs) {
  if (jobs.size() < 2 || static_cast<std::int64_t>(jobs.size()) > kMostSideBySide) return false;
  for (const LinearJob& job : jobs) {
    for (const LinearJob& other : jobs) {
      if (&other == &job) continue;
      for (const Rows& rows : {other.x, other.residual, other.out}) {
        if (overlap(job.out, rows)) return false;
      }
    }
  }
  return true;
}

/// All products that read the norm take it in, and each makes it again.
Joined join_norm(std::span<const Op> ops) {
  const auto* norm = at<NormOp>(ops, 0);
  if (norm == nullptr) return {};
  std::vector<LinearJob> jobs;
  bool x_stays = true;
  for (std::size_t i = 1;; ++i) {
    const auto* linear = at<LinearOp>(ops, i);
    if (linear == nullptr || !feeds(*norm, *linear)) break;
    if (!x_stays) return {};  // the norm of what x was is wanted again
    x_stays = linear->out.data != norm->x.data;
    jobs.push_back({.linear = linear->linear,
                    .x = norm->x,
                    .norm = {norm->weight, norm->epsilon},
                    .residual = linear->residual,
                    .out = linear->out});
  }
  if (jobs.empty()) return {};
  const std::size_t count = 1 + jobs.size();
  if (go_side_by_side(jobs)) return {{std::move(jobs)}, count};
  return {std::vector<Launch>(jobs.begin(), jobs.end()), count};
}

/// A head norm in place on the first columns of `qkv`, or on those behind.
bool is_head_norm(const NormOp* norm, const float* begin, const Rows& qkv) {
  return norm != nullptr && norm->x == norm->out && norm->x.data == begin &&
         norm->x.stride == qkv.stride && norm->x.rows == qkv.rows;
}

Joined join_attention(std::span<const Op> ops) {
  std::size_t next = 0;
  AttentionJob job;
  const auto* queries = at<NormOp>(ops, 0);
  const auto* keys = at<NormOp>(ops, 1);
  if (queries != nullptr && keys != nullptr) {
    const auto* rope = at<RopeOp>(ops, 2);
    if (rope == nullptr || !is_head_norm(queries, rope->qkv.data, rope->qkv) ||
        !is_head_norm(keys, rope->qkv.data + queries->x.cols, rope->qkv) ||
        queries->width != keys->width || queries->epsilon != keys->epsilon) {
      return {};
    }
    job.query_norm = queries->weight;
    job.key_norm = keys->weight;
    job.norm_epsilon = queries->epsilon;
    next = 2;
  }
  const auto* rope = at<RopeOp>(ops, next);
  const auto* attention = at<AttentionOp>(ops, next + 1);
  const auto* commit = at<CommitOp>(ops, next + 2);
  if (rope == nullptr || attention == nullptr || commit == nullptr) return {};
  if (rope->qkv != attention->qkv || attention->qkv != commit->qkv ||
      rope->shape != attention->shape || attention->shape != commit->shape ||
      attention->cache != commit->cache) {
    return {};
  }
  job.qkv = attention->qkv;
  job.shape = attention->shape;
  job.cache = attention->cache;
  job.out = attention->out;
  job.rotate = job.attend = job.commit = true;
  return {{job}, next + 3};
}

struct Alone {
  Launch operator()(const EmbedOp& op) const { return op; }
  Launch operator()(const NormOp& op) const { return op; }
  Launch operator()(const SwigluOp& op) const { return op; }
  Launch operator()(const ClearOp& op) const { return op; }
  Launch operator()(const LinearOp& op) const {
    return LinearJob{
        .linear = op.linear, .x = op.x, .norm = {}, .residual = op.residual, .out = op.out};
  }
  Launch operator()(const RopeOp& op) const {
    return AttentionJob{.qkv = op.qkv, .shape = op.shape, .out = {}, .rotate = true};
  }
  Launch operator()(const AttentionOp& op) const {
    return AttentionJob{
        .qkv = op.qkv, .shape = op.shape, .cache = op.cache, .out = op.out, .attend = true};
  }
  Launch operator()(const CommitOp& op) const {
    return AttentionJob{
        .qkv = op.qkv, .shape = op.shape, .cache = op.cache, .out = {}, .commit = true};
  }
};

}  // namespace

Launch alone(const Op& op) { return std::visit(Alone{}, op); }

std::vector<Launch> fuse(std::span<const Op> ops) {
  std::vector<Launch> launches;
  while (!ops.empty()) {
    Joined joined;
    for (const auto join : {join_mlp, join_norm, join_attention}) {
      joined = join(ops);
      if (joined.count > 0) break;
    }
    if (joined.count == 0) joined = {{alone(ops.front())}, 1};
    launches.insert(launches.end(), joined.launches.begin(), joined.launches.end());
    ops = ops.subspan(joined.count);
  }
  return launches;
}

}  // namespace sedpa::cuda
