#include "sedpa/attention/head_plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "sedpa/core/error.h"

namespace sedpa {
namespace {

const HeadClass kFull;
const HeadClass kWindow = HeadClass::window(64, 0, 256);

struct Gates {
  std::int32_t layers = 0;
  std::int32_t kv_heads = 0;
  std::vector<double> values;  // [layers, kv_heads]
};

Gates read_pattern(const std::string& directory) {
  const std::string path =
      std::string(SEDPA_SOURCE_DIR) + "/" + directory + "/full_attention_heads.tsv";
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  Gates gates;
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    gates.kv_heads = 0;
    for (std::string field; std::getline(fields, field, '\t'); ++gates.kv_heads) {
      gates.values.push_back(std::stod(field));
    }
    ++gates.layers;
  }
  return gates;
}

// The mask as numpy's script writes it: 1 keeps a head full.
std::string mask(const HeadPlan& plan, std::int32_t kv_heads) {
  std::string text;
  for (const LayerHeads& layer : plan.layers) {
    std::string row(kv_heads, '?');
    for (const std::int32_t head : layer.heads(kRetrieval)) row[head] = '1';
    for (const std::int32_t head : layer.heads(kStreaming)) row[head] = '0';
    text += row;
  }
  return text;
}

std::string fnv1a(const std::string& text) {
  std::uint64_t value = 0xCBF29CE484222325u;
  for (const char byte : text) {
    value = (value ^ static_cast<unsigned char>(byte)) * 0x100000001B3u;
  }
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(value));
  return hex;
}

TEST(HeadPlan, SplitsPublishedPatternsAsNumpyDoes) {
  std::ifstream file(std::string(SEDPA_SOURCE_DIR) + "/tests/data/attention/head_splits.json");
  ASSERT_TRUE(file.good());
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_GT(cases.size(), 150u);
  std::set<std::string> patterns;
  for (const nlohmann::json& golden : cases) {
    const std::string pattern = golden["pattern"];
    const double sparsity = golden["sparsity"];
    patterns.insert(pattern);
    const Gates gates = read_pattern(pattern);
    const HeadPlan plan =
        HeadPlan::from_gates(gates.values, gates.layers, gates.kv_heads, sparsity, kFull, kWindow);
    EXPECT_EQ(plan.streaming_heads(), golden["streaming"]) << pattern << " at " << sparsity;
    EXPECT_EQ(fnv1a(mask(plan, gates.kv_heads)), golden["fnv1a"]) << pattern << " at " << sparsity;
  }
  EXPECT_EQ(patterns.size(), 6u);
}

TEST(HeadPlan, TiesGoByLayerAndHead) {
  const std::vector<double> gates = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5};
  const HeadPlan plan = HeadPlan::from_gates(gates, 2, 3, 0.5, kFull, kWindow);
  EXPECT_EQ(plan.streaming_heads(), 3);  // ceil(0.5 * 5)
  EXPECT_EQ(mask(plan, 3), "000111");
}

TEST(HeadPlan, RetrievalHeadsStandFirstInHeadOrder) {
  const std::vector<double> gates = {0.9, 0.1, 0.8, 0.2, /**/ 0.3, 0.7, 0.4, 0.6};
  const HeadPlan plan = HeadPlan::from_gates(gates, 2, 4, 0.5, kFull, kWindow);
  // ceil(0.5 * 7) = 4 lowest: 0.1 0.2 0.3 0.4
  EXPECT_EQ(plan.layers[0].order, (std::vector<std::int32_t>{0, 2, 1, 3}));
  EXPECT_EQ(plan.layers[1].order, (std::vector<std::int32_t>{1, 3, 0, 2}));
  EXPECT_EQ(plan.layers[0].retrieval, 2);
  EXPECT_EQ(plan.layers[1].count(kStreaming), 2);
}

TEST(HeadPlan, EndsOfTheSweep) {
  const std::vector<double> gates = {0.0, 1.0, 0.5, 0.5};
  EXPECT_EQ(HeadPlan::from_gates(gates, 2, 2, 0.0, kFull, kWindow).streaming_heads(), 0);
  EXPECT_EQ(HeadPlan::from_gates(gates, 2, 2, 1.0, kFull, kWindow).streaming_heads(), 4);
  EXPECT_EQ(HeadPlan::from_gates(gates, 2, 2, 0.01, kFull, kWindow).streaming_heads(), 1);
  EXPECT_EQ(HeadPlan::from_gates(gates, 2, 2, 0.99, kFull, kWindow).streaming_heads(), 3);
  const std::vector<double> one = {0.3};
  EXPECT_EQ(HeadPlan::from_gates(one, 1, 1, 0.7, kFull, kWindow).streaming_heads(), 0);
}

TEST(HeadPlan, RefusesWhatMakesNoSense) {
  const std::vector<double> gates = {0.1, 0.2};
  EXPECT_THROW(HeadPlan::from_gates(gates, 1, 2, 1.5, kFull, kWindow), Error);
  EXPECT_THROW(HeadPlan::from_gates(gates, 1, 2, -0.1, kFull, kWindow), Error);
  EXPECT_THROW(
      HeadPlan::from_gates(gates, 1, 2, std::numeric_limits<double>::quiet_NaN(), kFull, kWindow),
      Error);
  EXPECT_THROW(HeadPlan::from_gates(gates, 2, 2, 0.5, kFull, kWindow), Error);
  EXPECT_THROW(HeadPlan::from_gates(gates, 0, 2, 0.5, kFull, kWindow), Error);
  EXPECT_THROW(HeadPlan::from_gates(gates, 1, 2, 0.5, kFull, HeadClass::window(4, 0, 0)), Error);
  EXPECT_THROW(HeadPlan::uniform(2, 0, kFull), Error);
  const std::vector<double> bad = {0.1, std::numeric_limits<double>::quiet_NaN()};
  EXPECT_THROW(HeadPlan::from_gates(bad, 1, 2, 0.5, kFull, kWindow), Error);
}

// The definition of the mask in the contract, counted out.
bool contract_sees(const HeadClass& c, std::int64_t p, std::int64_t j) {
  if (j > p) return false;
  if (j < c.sink || p - j < c.recent) return true;
  if (c.middle == 0) return false;
  for (std::int64_t stride = 1;; stride *= 2) {
    std::int64_t members = 0;
    for (std::int64_t i = c.sink; i <= p - c.recent; ++i) members += i % stride == 0;
    if (members <= c.middle) return j % stride == 0;
  }
}

TEST(HeadClass, SeesWhatTheContractSays) {
  for (const HeadClass& c :
       {HeadClass::window(4, 0, 8), HeadClass::window(0, 0, 1), HeadClass::window(0, 3, 5),
        HeadClass::window(3, 4, 7), HeadClass::window(5, 1, 1), HeadClass::window(8, 16, 4)}) {
    for (std::int64_t p = 0; p < 150; ++p) {
      for (std::int64_t j = 0; j < 150; ++j) {
        ASSERT_EQ(c.sees(p, j), contract_sees(c, p, j))
            << c.sink << ',' << c.middle << ',' << c.recent << " p " << p << " j " << j;
      }
    }
  }
  EXPECT_TRUE(kFull.sees(1000000, 0));
  EXPECT_FALSE(kFull.sees(5, 6));
}

TEST(HeadPlan, CountsTheHighGatesAmongThoseThatStream) {
  const std::vector<double> gates = {0.95, 0.2, 1.0, 0.9, 0.91, 0.99};
  const auto above = [&](double sparsity, double gate) {
    return HeadPlan::from_gates(gates, 2, 3, sparsity, kFull, kWindow).streaming_above(gates, gate);
  };
  EXPECT_EQ(above(0, 0.9), 0);
  EXPECT_EQ(above(0.4, 0.9), 0);  // 0.2 and 0.9 stream
  EXPECT_EQ(above(0.6, 0.9), 1);
  EXPECT_EQ(above(1, 0.9), 4);
  EXPECT_EQ(above(1, 0.1), 6);
}

TEST(HeadClass, Capacity) {
  EXPECT_EQ(kFull.capacity(1000), 1000);
  EXPECT_EQ(kWindow.capacity(1000), 320);
  EXPECT_EQ(kWindow.capacity(100), 100);
  EXPECT_EQ(HeadClass::window(256, 512, 4096).capacity(1 << 20), 4864);
  const auto big = HeadClass::window(INT32_MAX, INT32_MAX, INT32_MAX);
  EXPECT_EQ(big.capacity(std::int64_t{1} << 40), std::int64_t{3} * INT32_MAX);
}

}  // namespace
}  // namespace sedpa
