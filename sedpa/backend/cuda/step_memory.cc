#include "sedpa/backend/cuda/step_memory.h"

#include <algorithm>
#include <cstring>

#include "sedpa/backend/cuda/expand_step.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

constexpr std::size_t kAlign = 256;

std::size_t padded(std::int64_t count, std::size_t size) {
  return round_up(static_cast<std::size_t>(count) * size, kAlign);
}

}  // namespace

struct StepMemory::Layout {
  std::size_t counts = 0;  // past, tokens
  std::size_t ids = 0;
  std::size_t positions[kHeadClasses] = {};
  std::size_t slots[kHeadClasses] = {};
  std::size_t cosines = 0;
  std::size_t sines = 0;
  std::size_t inverse_frequency = 0;
  std::size_t size = 0;
  std::size_t staging = 0;
  std::int64_t capacity[kHeadClasses] = {};
};

StepMemory::StepMemory(cudaStream_t stream) : stream_(stream) {
  for (cudaEvent_t& event : read_) {
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
}

StepMemory::~StepMemory() {
  for (cudaEvent_t event : read_) (void)cudaEventDestroy(event);
}

StepMemory::Layout StepMemory::layout(const OpsPlan& plan) {
  Layout at;
  const auto take = [&](std::int64_t count, std::size_t size) {
    const std::size_t offset = at.size;
    at.size += padded(count, size);
    return offset;
  };
  at.counts = take(2, sizeof(std::int32_t));
  at.ids = take(plan.max_tokens, sizeof(std::int32_t));
  std::int64_t staged = plan.max_tokens;
  for (int i = 0; i < kHeadClasses; ++i) {
    if (plan.heads == nullptr || plan.heads->classes[i].full) continue;
    at.capacity[i] = plan.heads->classes[i].capacity(plan.max_context);
    at.positions[i] = take(at.capacity[i], sizeof(std::int32_t));
    at.slots[i] = take(plan.max_tokens, sizeof(std::int32_t));
    staged += at.capacity[i] + plan.max_tokens;
  }
  const std::int64_t half = plan.rope.dim / 2;
  at.cosines = take(plan.max_tokens * half, sizeof(float));
  at.sines = take(plan.max_tokens * half, sizeof(float));
  at.inverse_frequency = take(half, sizeof(double));
  at.staging = static_cast<std::size_t>(staged) * sizeof(std::int32_t);
  return at;
}

std::size_t StepMemory::scratch_bytes(const OpsPlan& plan) { return layout(plan).size; }

void StepMemory::reserve(const OpsPlan& plan) {
  const Layout at = layout(plan);
  memory_ = DeviceMemory();
  memory_ = DeviceMemory(at.size);
  for (PinnedMemory& staging : staging_) {
    staging = PinnedMemory();
    staging = PinnedMemory(at.staging);
  }
  max_tokens_ = plan.max_tokens;
  max_context_ = plan.max_context;
  std::copy(std::begin(at.capacity), std::end(at.capacity), capacity_);
  magnitude_ = plan.rope.magnitude;

  std::byte* base = memory_.data();
  const auto ints = [&](std::size_t offset) {
    return reinterpret_cast<const std::int32_t*>(base + offset);
  };
  const auto floats = [&](std::size_t offset) {
    return reinterpret_cast<const float*>(base + offset);
  };
  state_ = {};
  state_.past = ints(at.counts);
  state_.tokens = ints(at.counts) + 1;
  state_.ids = ints(at.ids);
  state_.cosines = floats(at.cosines);
  state_.sines = floats(at.sines);
  state_.rope_dim = plan.rope.dim;
  state_.rope_neighbours = plan.rope.style == RopeStyle::neighbours;
  for (int i = 0; i < kHeadClasses; ++i) {
    if (capacity_[i] == 0) continue;
    state_.positions[i] = ints(at.positions[i]);
    state_.slots[i] = ints(at.slots[i]);
  }
  inverse_frequency_ = reinterpret_cast<const double*>(base + at.inverse_frequency);
  const auto& frequencies = plan.rope.inverse_frequency;
  if (!frequencies.empty()) {
    check(cudaMemcpy(base + at.inverse_frequency, frequencies.data(),
                     frequencies.size() * sizeof(double), cudaMemcpyHostToDevice));
  }
}

void StepMemory::begin(const Step& step, const KvCache& cache) {
  const auto tokens = static_cast<std::int64_t>(step.tokens.size());
  if (tokens > max_tokens_ || step.past + tokens > max_context_) {
    fail("a step of {} tokens behind {} exceeds what was reserved: {} tokens, context {}", tokens,
         step.past, max_tokens_, max_context_);
  }
  const int turn = next_;
  next_ = 1 - next_;
  check(cudaEventSynchronize(read_[turn]));
  auto* const staged = reinterpret_cast<std::int32_t*>(staging_[turn].data());
  std::int32_t* to = std::copy(step.tokens.begin(), step.tokens.end(), staged);

  const auto own = [](const std::int32_t* address) { return const_cast<std::int32_t*>(address); };
  StepExpansion expansion{.staged = staged,
                          .past = static_cast<std::int32_t>(step.past),
                          .tokens = static_cast<std::int32_t>(tokens),
                          .capacity = {},
                          .inverse_frequency = inverse_frequency_,
                          .magnitude = magnitude_,
                          .half = state_.rope_dim / 2,
                          .past_out = own(state_.past),
                          .tokens_out = own(state_.tokens),
                          .ids = own(state_.ids),
                          .positions = {},
                          .slots = {},
                          .cosines = const_cast<float*>(state_.cosines),
                          .sines = const_cast<float*>(state_.sines)};
  for (int i = 0; i < kHeadClasses; ++i) {
    if (capacity_[i] == 0) continue;
    const auto positions = cache.positions(i);
    if (static_cast<std::int64_t>(positions.size()) != capacity_[i]) {
      fail("a cache of {} slots was given, but {} were reserved", positions.size(), capacity_[i]);
    }
    expansion.capacity[i] = static_cast<std::int32_t>(capacity_[i]);
    expansion.positions[i] = own(state_.positions[i]);
    expansion.slots[i] = own(state_.slots[i]);
    to = std::copy(positions.begin(), positions.end(), to);
    std::fill_n(to, tokens, -1);
    for (const SlotWrite& write : cache.plan_commit(i, tokens)) to[write.row] = write.slot;
    to += tokens;
  }
  expand_step(expansion, stream_);
  check(cudaEventRecord(read_[turn], stream_));
}

}  // namespace sedpa::cuda
