#include "sedpa/eval/passkey.h"

#include <gtest/gtest.h>

#include "sedpa/core/error.h"

namespace sedpa {
namespace {

TEST(Passkey, CasesCoverLengthsDepthsAndSamples) {
  const std::vector<PasskeyCase> cases = passkey_cases({1000, 4000}, 3, 2);
  ASSERT_EQ(cases.size(), 12u);
  EXPECT_EQ(cases[0].length, 1000);
  EXPECT_EQ(cases[0].depth, 0.0);
  EXPECT_EQ(cases[1].sample, 1);
  EXPECT_EQ(cases[2].depth, 0.5);
  EXPECT_EQ(cases[4].depth, 1.0);
  EXPECT_EQ(cases[6].length, 4000);
  EXPECT_EQ(passkey_cases({1000}, 1, 1)[0].depth, 0.5);
  EXPECT_THROW(passkey_cases({}, 3, 2), Error);
  EXPECT_THROW(passkey_cases({1000}, 0, 2), Error);
  EXPECT_THROW(passkey_cases({1000}, 3, 0), Error);
}

TEST(Passkey, TheFirstNumberIsTheAnswer) {
  EXPECT_TRUE(answers(" 48213. Remember it.", "48213"));
  EXPECT_TRUE(answers("48213", "48213"));
  EXPECT_TRUE(answers(" the number 48213", "48213"));
  EXPECT_FALSE(answers(" 482131", "48213"));
  EXPECT_FALSE(answers(" 4821", "48213"));
  EXPECT_FALSE(answers(" 11111 or 48213", "48213"));
  EXPECT_FALSE(answers(" I do not know", "48213"));
  EXPECT_FALSE(answers("", "48213"));
}

}  // namespace
}  // namespace sedpa
