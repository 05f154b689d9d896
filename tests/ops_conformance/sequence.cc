#include "tests/ops_conformance/sequence.h"

#include <array>
#include <cstring>

namespace sedpa::conformance {
namespace {

// What slots hold that nobody has written: large finite numbers in every KV dtype. A mask that lets
// one through spoils the result; one that multiplies it by zero does not.
constexpr std::byte kStale{0x60};

std::uint16_t load_u16(const std::byte* from) {
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}

float load_f32(const std::byte* from) {
  float value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

}  // namespace

Sequence::Sequence(const Backend& backend, const SequenceConfig& config)
    : config_(config), ops_(backend.make()) {
  OpsPlan plan;
  plan.attention = config.attention;
  plan.rope = config.rope;
  plan.max_tokens = config.max_tokens;
  plan.max_context = config.geometry.context;
  plan.max_cols = config.attention.qkv_cols();
  plan.heads = &config.geometry.plan;
  ops_->reserve(plan);

  std::array<std::byte*, kHeadClasses> addresses{};
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    const std::size_t bytes = config.geometry.arena_bytes(head_class);
    arenas_.push_back(bytes > 0 ? ops_->allocate(bytes) : Buffer{});
    addresses[static_cast<std::size_t>(head_class)] = arenas_.back().data;
    if (bytes == 0) continue;
    const std::vector<std::byte> stale(bytes, kStale);
    ops_->copy_from_host(stale.data(), arenas_.back().data, bytes);
  }
  cache_ = std::make_unique<KvCache>(config.geometry, addresses);
}

void Sequence::begin(std::span<const std::int32_t> tokens) {
  ids_.assign(tokens.begin(), tokens.end());
  ops_->begin_step({.tokens = ids_, .past = cache_->length()}, *cache_);
}

void Sequence::begin(std::int64_t tokens) {
  begin(std::vector<std::int32_t>(static_cast<std::size_t>(tokens), 0));
}

std::vector<std::byte> Sequence::arena(int head_class) {
  const Buffer& buffer = arenas_[static_cast<std::size_t>(head_class)];
  std::vector<std::byte> bytes(buffer.bytes);
  if (!bytes.empty()) ops_->copy_to_host(buffer.data, bytes.data(), bytes.size());
  return bytes;
}

std::vector<double> decode_kv_row(KvDtype dtype, std::int64_t dim, const std::byte* row) {
  std::vector<double> numbers(static_cast<std::size_t>(dim));
  const std::byte* codes = row + 2 * ((dim + kKvBlock - 1) / kKvBlock);
  for (std::int64_t i = 0; i < dim; ++i) {
    double& number = numbers[static_cast<std::size_t>(i)];
    const double scale = f16_to_f32(load_u16(row + 2 * (i / kKvBlock)));
    switch (dtype) {
      case KvDtype::f32:
        number = load_f32(row + 4 * i);
        break;
      case KvDtype::f16:
        number = f16_to_f32(load_u16(row + 2 * i));
        break;
      case KvDtype::bf16:
        number = bf16_to_f32(load_u16(row + 2 * i));
        break;
      case KvDtype::q8:
        number = scale * static_cast<std::int8_t>(codes[i]);
        break;
      case KvDtype::q4: {
        const int both = std::to_integer<int>(codes[i / 2]);
        number = scale * ((i % 2 == 0 ? both & 15 : both >> 4) - 8);
        break;
      }
    }
  }
  return numbers;
}

}  // namespace sedpa::conformance
