// The laws that every other test stands on: memory, copies, views.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/ops_conformance/device.h"
#include "tests/ops_conformance/inputs.h"

namespace sedpa::conformance {
namespace {

TEST(Memory, IsZeroAtFirstAndCopiesBothWays) {
  Random random(1);
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    const auto ops = backend.make();
    const Buffer buffer = ops->allocate(1000);
    EXPECT_GE(buffer.bytes, 1000u);
    std::vector<std::byte> host(1000, std::byte{1});
    ops->copy_to_host(buffer.data, host.data(), host.size());
    EXPECT_TRUE(
        std::all_of(host.begin(), host.end(), [](std::byte b) { return b == std::byte{}; }));

    std::vector<std::byte> sent(300);
    for (std::byte& b : sent) b = static_cast<std::byte>(random() & 255);
    ops->copy_from_host(sent.data(), buffer.data + 7, sent.size());
    std::vector<std::byte> back(300);
    ops->copy_to_host(buffer.data + 7, back.data(), back.size());
    EXPECT_EQ(back, sent);
  }
}

TEST(Memory, ReadPacksTheRowsOfAView) {
  Random random(2);
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    const auto ops = backend.make();
    const auto values = normal(random, 6 * 9);
    DeviceRows rows(*ops, 6, 9);
    rows.write(values);
    EXPECT_EQ(rows.read(6), values);
    std::vector<float> part(2 * 3);
    ops->read(rows.view().range(4, 2).columns(5, 3), part.data());
    for (int i = 0; i < 6; ++i) EXPECT_EQ(part[i], values[(4 + i / 3) * 9 + 5 + i % 3]);
  }
}

TEST(Memory, VectorsKeepTheirNumbers) {
  Random random(3);
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    const auto ops = backend.make();
    const auto values = normal(random, 37);
    const Vector vector = ops->make_vector(values);
    EXPECT_EQ(vector.size, 37);
    EXPECT_GE(vector.bytes, 37 * sizeof(float));
    std::vector<float> back(37);
    ops->copy_to_host(reinterpret_cast<const std::byte*>(vector.data),
                      reinterpret_cast<std::byte*>(back.data()), 37 * sizeof(float));
    EXPECT_EQ(back, values);
  }
}

TEST(Memory, RepeatFillsWithAPattern) {
  Random random(4);
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    const auto ops = backend.make();
    for (std::size_t bytes : {0u, 5u, 13u, 14u, 1000u}) {
      const Buffer buffer = ops->allocate(1010);
      std::vector<std::byte> pattern(13);
      for (std::byte& b : pattern) b = static_cast<std::byte>(1 + random() % 255);
      ops->repeat(pattern, buffer.data + 3, bytes);
      std::vector<std::byte> back(1010);
      ops->copy_to_host(buffer.data, back.data(), back.size());
      for (std::size_t i = 0; i < back.size(); ++i) {
        const bool inside = i >= 3 && i < 3 + bytes;
        ASSERT_EQ(back[i], inside ? pattern[(i - 3) % 13] : std::byte{}) << i;
      }
    }
  }
}

TEST(Memory, ArgmaxTakesTheLowestOfTheLargest) {
  Random random(5);
  const float infinity = INFINITY;
  for (const Backend& backend : backends()) {
    SCOPED_TRACE(backend.name);
    const auto ops = backend.make();
    for (std::int64_t cols : {1, 2, 33, 1000, 70001}) {
      DeviceRows rows(*ops, 1, cols);
      auto values = normal(random, cols);
      const auto ask = [&] {
        rows.write(values);
        return ops->argmax(rows.view());
      };
      EXPECT_EQ(ask(), std::max_element(values.begin(), values.end()) - values.begin());
      const std::size_t last = values.size() - 1;
      values[last] = values[last / 2] = 100;
      EXPECT_EQ(ask(), static_cast<std::int32_t>(last / 2));
      values[last] = -infinity;
      if (last > 0) {
        EXPECT_EQ(ask(), static_cast<std::int32_t>(last / 2));
      }
      for (const float bad : {infinity, std::nanf("")}) {
        values[last] = bad;
        EXPECT_EQ(ask(), -1);
      }
      std::fill(values.begin(), values.end(), -infinity);
      EXPECT_EQ(ask(), -1);
    }
  }
}

}  // namespace
}  // namespace sedpa::conformance
