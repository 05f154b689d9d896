// The functions of the vector layer that are not one instruction, seen through the kernels.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "sedpa/backend/cpu/kernels.h"
#include "tests/backend_cpu/random_rows.h"

namespace sedpa::test {
namespace {

class KernelsOnIsa : public testing::TestWithParam<Isa> {
 protected:
  const cpu::Kernels& kernels = cpu::kernels(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Isas, KernelsOnIsa, testing::ValuesIn(usable_isas()),
                         [](const auto& tested) { return std::string(name(tested.param)); });

TEST_P(KernelsOnIsa, SiluOverTheWholeLine) {
  // silu(x) = x / (1 + e^-x) holds exp to its error, wherever e^-x counts.
  std::vector<float> gates;
  for (float x = -100.0f; x <= 100.0f; x += 0.0137f) gates.push_back(x);
  for (const float x : {0.0f, -0.0f, 1e-30f, -87.33f, -88.4f, -88.37f, 1e30f, -1e30f}) {
    gates.push_back(x);
  }
  const std::size_t count = gates.size();
  std::vector<float> gate_up = gates;
  gate_up.resize(2 * count, 1.0f);
  std::vector<float> out(count);
  kernels.swiglu(gate_up.data(), static_cast<std::int64_t>(count), out.data());
  for (std::size_t i = 0; i < count; ++i) {
    const double x = gates[i];
    const double want = x / (1.0 + std::exp(-x));
    // Where e^-x leaves f32's range the result is 0 instead of something below 1e-36.
    EXPECT_NEAR(out[i], want, std::fabs(want) * 4e-7 + 1e-36) << x;
  }
}

TEST_P(KernelsOnIsa, SiluKeepsNaN) {
  float gate_up[2] = {std::numeric_limits<float>::quiet_NaN(), 1.0f};
  float out[1] = {};
  kernels.swiglu(gate_up, 1, out);
  EXPECT_TRUE(std::isnan(out[0]));
}

TEST_P(KernelsOnIsa, RmsNormOfAnyLength) {
  for (const std::int64_t size : {1, 15, 16, 17, 33, 64, 576, 1000}) {
    const auto count = static_cast<std::size_t>(size);
    const std::vector<float> x = random_numbers(count, 1);
    const std::vector<float> weight = random_numbers(count, 2);
    std::vector<float> out = x;
    kernels.rms_norm(out.data(), weight.data(), size, 1e-5f, out.data());
    double squares = 0;
    for (const float a : x) squares += static_cast<double>(a) * a;
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(size) + 1e-5);
    for (std::size_t i = 0; i < count; ++i) {
      const double want = x[i] * scale * weight[i];
      EXPECT_NEAR(out[i], want, std::fabs(want) * 1e-6) << size;
    }
  }
}

TEST_P(KernelsOnIsa, RotationsPairWhatTheStyleSays) {
  for (const std::int64_t pairs : {1, 5, 16, 32, 48, 64}) {
    const auto count = static_cast<std::size_t>(pairs);
    const std::vector<float> head = random_numbers(2 * count, 1);
    std::vector<float> cos(count);
    std::vector<float> sin(count);
    for (std::size_t i = 0; i < count; ++i) {
      cos[i] = std::cos(static_cast<float>(i));
      sin[i] = std::sin(static_cast<float>(i));
    }
    std::vector<float> neighbours = head;
    std::vector<float> halves = head;
    kernels.rotate_neighbours(neighbours.data(), cos.data(), sin.data(), pairs);
    kernels.rotate_halves(halves.data(), cos.data(), sin.data(), pairs);
    const auto expect = [&](const std::vector<float>& got, std::size_t a, std::size_t b,
                            std::size_t i) {
      EXPECT_NEAR(got[a], head[a] * cos[i] - head[b] * sin[i], 1e-6);
      EXPECT_NEAR(got[b], head[a] * sin[i] + head[b] * cos[i], 1e-6);
    };
    for (std::size_t i = 0; i < count; ++i) {
      expect(neighbours, 2 * i, 2 * i + 1, i);
      expect(halves, i, i + count, i);
    }
  }
}

TEST_P(KernelsOnIsa, ReadAllReadsEveryWord) {
  std::vector<std::uint32_t> words(64 * 9);
  std::uint32_t want = 0;
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i] = static_cast<std::uint32_t>(i * 2654435761U);
    want += words[i];
  }
  EXPECT_EQ(kernels.read_all(reinterpret_cast<const std::byte*>(words.data()), words.size() * 4),
            want);
}

}  // namespace
}  // namespace sedpa::test
