#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace sedpa {

/// Processors that this process may use, at least 1.
[[nodiscard]] int usable_processors();

/// Persistent threads that run one loop together. The calling thread is thread 0 and works too.
/// Workers spin briefly between loops (a decode step has a hundred of them, microseconds apart)
/// and sleep when nothing comes. One caller at a time.
class ThreadPool {
 public:
  /// `threads` >= 1 in total; 0 means one for each processor this process may use. Throws Error
  /// when the system does not give that many.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(thread) once on each thread and returns when all have. `body` must not throw.
  template <class Body>
  void run(Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run_erased([](void* context, int thread) { (*static_cast<Plain*>(context))(thread); },
               const_cast<void*>(static_cast<const void*>(&body)));
  }

  /// Calls body(index, thread) for every index in [0, count), handed out one at a time in order.
  template <class Body>
  void for_each(std::int64_t count, Body&& body) {
    if (count <= 1 || size() == 1) {
      for (std::int64_t i = 0; i < count; ++i) body(i, 0);
      return;
    }
    std::atomic<std::int64_t> next{0};
    run([&](int thread) {
      for (std::int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i, thread);
    });
  }

 private:
  using Function = void (*)(void* context, int thread);
  void run_erased(Function function, void* context);
  void work(int thread);
  void stop();

  // What a worker needs to begin stands in one cache line, and what it reports in another: the
  // caller's writes then disturb no one who waits for something else.
  static constexpr std::size_t kCacheLine = 64;
  alignas(kCacheLine) std::atomic<std::uint64_t> generation_{0};  // one more is one more loop
  Function function_ = nullptr;
  void* context_ = nullptr;
  alignas(kCacheLine) std::atomic<int> running_{0};
  alignas(kCacheLine) std::atomic<bool> stop_{false};
  std::atomic<int> asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace sedpa
