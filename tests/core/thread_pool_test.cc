#include "sedpa/core/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <vector>

namespace sedpa {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsOnceOnEachThread) {
  ThreadPool pool(GetParam());
  ASSERT_EQ(pool.size(), GetParam());
  std::vector<int> calls(static_cast<std::size_t>(pool.size()));
  for (int i = 0; i < 200; ++i) pool.run([&](int thread) { ++calls[thread]; });
  for (const int count : calls) EXPECT_EQ(count, 200);
}

TEST_P(ThreadPoolTest, HandsOutEveryIndexOnce) {
  ThreadPool pool(GetParam());
  for (const int count : {0, 1, 2, 3, 1000}) {
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
    pool.for_each(count, [&](std::int64_t i, int thread) {
      EXPECT_LT(thread, pool.size());
      seen[static_cast<std::size_t>(i)]++;
    });
    for (const auto& times : seen) EXPECT_EQ(times.load(), 1);
  }
}

// Workers that have gone to sleep are woken, again and again.
TEST_P(ThreadPoolTest, WakesSleepers) {
  ThreadPool pool(GetParam());
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> calls{0};
    pool.run([&](int) { ++calls; });
    EXPECT_EQ(calls.load(), pool.size());
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

TEST(ThreadPool, DefaultIsOneThreadForEachProcessor) {
  EXPECT_EQ(ThreadPool(0).size(), usable_processors());
}

}  // namespace
}  // namespace sedpa
