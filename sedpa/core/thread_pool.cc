#include "sedpa/core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <system_error>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

using Clock = std::chrono::steady_clock;

// How long a thread looks for what it waits for before it gives its processor back. Between the
// loops of a step lie microseconds, between steps a sampler; to sleep and be woken costs tens of
// microseconds. Longer waits mean that someone else needs a processor.
constexpr std::chrono::microseconds kWorkerSpin{200};
constexpr std::chrono::microseconds kCallerSpin{50};
constexpr int kLooksPerTime = 32;  // a pause takes up to 60 ns, to ask the time about as long

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Whether it came within the time.
template <class Came>
bool spin(std::chrono::microseconds limit, Came came) {
  Clock::time_point end{};
  while (true) {
    for (int i = 0; i < kLooksPerTime; ++i) {
      if (came()) return true;
      pause();
    }
    const Clock::time_point now = Clock::now();
    if (end == Clock::time_point{}) end = now + limit;
    if (now >= end) return false;
  }
}

}  // namespace

int usable_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = usable_processors();
  shares_ = std::vector<Share>(static_cast<std::size_t>(threads));
  try {
    for (int thread = 1; thread < threads; ++thread) {
      workers_.emplace_back([this, thread] { work(thread); });
    }
  } catch (const std::system_error& error) {
    stop();
    fail("cannot start {} threads: {}", threads, error.what());
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stop_ = true;
  loop_.fetch_add(1);
  loop_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::claim(int share, std::uint32_t loop) {
  std::uint32_t before = loop - 1;
  return shares_[static_cast<std::size_t>(share)].claimed.compare_exchange_strong(before, loop);
}

void ThreadPool::run_erased(Function function, void* context) {
  function_ = function;
  context_ = context;
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  const std::uint32_t loop = loop_.fetch_add(1) + 1;
  loop_.notify_all();
  function(context, 0);
  // A worker that has not begun sleeps, or waits for a processor that others have: not for it.
  for (int share = 1; share <= static_cast<int>(workers_.size()); ++share) {
    if (!claim(share, loop)) continue;
    function(context, share);
    running_.fetch_sub(1, std::memory_order_relaxed);
  }
  const auto done = [&] { return running_.load(std::memory_order_acquire) == 0; };
  if (spin(kCallerSpin, done)) return;
  // Whoever has begun may have lost its processor: it can have this one.
  for (int left = running_.load(); left > 0; left = running_.load()) running_.wait(left);
}

void ThreadPool::work(int thread) {
  std::uint32_t seen = 0;
  while (true) {
    const auto came = [&] { return loop_.load(std::memory_order_acquire) != seen; };
    if (!spin(kWorkerSpin, came)) loop_.wait(seen);
    // Loops may have come and gone meanwhile, without this thread.
    seen = loop_.load(std::memory_order_acquire);
    if (stop_) return;
    if (!claim(thread, seen)) continue;
    function_(context_, thread);  // the loop cannot end before this has: they stay what they are
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace sedpa
