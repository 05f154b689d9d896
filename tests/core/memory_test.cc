#include "sedpa/core/memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "sedpa/core/checked.h"
#include "sedpa/core/error.h"

namespace sedpa {
namespace {

TEST(Pages, AreZeroAlignedAndCountedWhenTouched) {
  Pages pages(std::size_t{64} << 20);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pages.data()) % 64, 0u);
  for (std::size_t i = 0; i < pages.size(); i += 4096) ASSERT_EQ(pages.data()[i], std::byte{0});
  std::memset(pages.data(), 1, pages.size());
  EXPECT_GE(peak_resident_memory(), pages.size());
}

TEST(Pages, MoveAndEmpty) {
  Pages a(4096);
  std::byte* data = a.data();
  Pages b(std::move(a));
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(Pages(0).data(), nullptr);
}

TEST(Pages, ImpossibleSizeIsAnErrorThatNamesIt) {
  try {
    Pages pages(std::size_t{1} << 60);
    FAIL() << "allocated 2^60 bytes";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("1152921504606846976"), std::string::npos);
  }
}

TEST(Checked, OverflowIsNoNumber) {
  const auto most = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(checked_add<std::int64_t>(most, 0), most);
  EXPECT_FALSE(checked_add<std::int64_t>(most, 1).has_value());
  EXPECT_FALSE(checked_mul<std::int64_t>(most / 2, 3).has_value());
  EXPECT_EQ(round_up(17, 16), 32);
  EXPECT_EQ(ceil_div(16, 16), 1);
}

}  // namespace
}  // namespace sedpa
