#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace sedpa {

/// Processors that this process may use, at least 1.
[[nodiscard]] int usable_processors();

/// Persistent threads that run one loop together. The calling thread is thread 0 and works too.
/// Workers spin briefly between loops (a decode step has a hundred of them, microseconds apart)
/// and sleep when nothing comes. On a busy machine a loop does not wait for those that have not
/// got a processor: the caller does what they have not begun. One caller at a time.
class ThreadPool {
 public:
  /// `threads` >= 1 in total; 0 means one for each processor this process may use. Throws Error
  /// when the system does not give that many.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(thread) once for each thread and returns when all calls have. They run side by
  /// side, each on its thread, or some one after the other on the caller's. `body` must not throw.
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
  /// Whether the calling thread is the one to do this share of this loop.
  bool claim(int share, std::uint32_t loop);

  // What a worker needs to begin stands in one cache line, and what it reports in another: the
  // caller's writes then disturb no one who waits for something else.
  static constexpr std::size_t kCacheLine = 64;
  struct alignas(kCacheLine) Share {
    std::atomic<std::uint32_t> claimed{0};  // the last loop that someone does or did it in
  };
  alignas(kCacheLine) std::atomic<std::uint32_t> loop_{0};  // one more is one more loop
  Function function_ = nullptr;
  void* context_ = nullptr;
  alignas(kCacheLine) std::atomic<int> running_{0};  // shares not done, other than the caller's
  alignas(kCacheLine) std::atomic<bool> stop_{false};
  std::vector<Share> shares_;  // [threads]
  std::vector<std::thread> workers_;
};

}  // namespace sedpa
