#include "sedpa/model/thin_heads.h"

#include <algorithm>
#include <limits>

#include "sedpa/core/fail.h"

namespace sedpa {
namespace {

constexpr std::int64_t kGrain = 16;  // numbers; widths are multiples of it

// Backends tell planes by a byte.
constexpr std::int64_t kMostPlanes = std::numeric_limits<std::uint8_t>::max() + 1;

// The widths of one kind, checked.
class Widths {
 public:
  Widths(const ModelConfig& c, const ThinHeadFields& fields, const char* name,
         std::span<const std::int64_t> widths)
      : widths_(widths) {
    const std::int64_t heads = std::int64_t{c.layers} * c.kv_heads;
    if (std::ssize(widths) != heads) {
      fail("{}: {}{} has {} numbers, expected {}: one for each of {} layers x {} KV heads", c.path,
           fields.prefix, name, widths.size(), heads, c.layers, c.kv_heads);
    }
    for (std::int64_t i = 0; i < heads; ++i) {
      const std::int64_t width = (*this)[i];
      if (width == c.head_dim) continue;
      if (width < kGrain || width > c.head_dim || width % kGrain != 0) {
        fail("{}: {}{} of layer {}, KV head {} is {}, expected a multiple of {} below {}, or {}",
             c.path, fields.prefix, name, i / c.kv_heads, i % c.kv_heads, width, kGrain, c.head_dim,
             c.head_dim);
      }
    }
  }
  [[nodiscard]] std::int64_t operator[](std::int64_t head) const {
    return widths_[static_cast<std::size_t>(head)];
  }
  [[nodiscard]] bool all_are(std::int64_t width) const {
    return std::all_of(widths_.begin(), widths_.end(),
                       [&](std::int64_t own) { return own == width; });
  }

 private:
  std::span<const std::int64_t> widths_;
};

// A head's planes ascend, each one that RoPE has.
void check_planes(const ModelConfig& c, const ThinHeadFields& fields, const Widths& keys) {
  std::int64_t expected = 0;
  const std::int64_t heads = std::int64_t{c.layers} * c.kv_heads;
  for (std::int64_t i = 0; i < heads; ++i) expected += keys[i] / 2;
  if (std::ssize(fields.rope_planes) != expected) {
    fail("{}: {}rope_planes has {} numbers, expected {}: half as many as all {}key_widths together",
         c.path, fields.prefix, fields.rope_planes.size(), expected, fields.prefix);
  }
  auto at = fields.rope_planes.begin();
  for (std::int64_t i = 0; i < heads; ++i) {
    std::int64_t before = -1;
    for (const auto end = at + keys[i] / 2; at != end; ++at) {
      if (*at <= before || *at >= c.head_dim / 2) {
        fail(
            "{}: {}rope_planes of layer {}, KV head {} has {}, expected ascending numbers from 0 "
            "to {}",
            c.path, fields.prefix, i / c.kv_heads, i % c.kv_heads, *at, c.head_dim / 2 - 1);
      }
      before = *at;
    }
  }
}

void check_thin_keys(const ModelConfig& c, const ThinHeadFields& fields) {
  if (c.query_key_norm) {
    fail("{}: {}key_widths are below the head size, but {} norms each query and key as a whole",
         c.path, fields.prefix, c.architecture);
  }
  if (c.rope_dim != c.head_dim) {
    fail("{}: {}key_widths are below the head size {}, but RoPE rotates only {} of its numbers",
         c.path, fields.prefix, c.head_dim, c.rope_dim);
  }
  if (c.head_dim / 2 > kMostPlanes) {
    fail("{}: {}key_widths are below the head size {}, expected a head size of at most {} then",
         c.path, fields.prefix, c.head_dim, 2 * kMostPlanes);
  }
}

}  // namespace

ThinHeads read_thin_heads(const ModelConfig& c, const ThinHeadFields& fields) {
  const Widths keys(c, fields, "key_widths", fields.key_widths);
  const Widths values(c, fields, "value_widths", fields.value_widths);
  check_planes(c, fields, keys);
  const bool plain_keys = keys.all_are(c.head_dim);
  if (!plain_keys) check_thin_keys(c, fields);

  ThinHeads thin;
  if (plain_keys && values.all_are(c.head_dim)) return thin;
  for (std::int64_t i = 0; i < std::int64_t{c.layers} * c.kv_heads; ++i) {
    thin.widths.push_back(
        {.key = static_cast<std::int32_t>(keys[i]), .value = static_cast<std::int32_t>(values[i])});
  }
  thin.rope_planes.assign(fields.rope_planes.begin(), fields.rope_planes.end());
  return thin;
}

void refuse_thin_heads(const ModelConfig& config, const std::string& what) {
  if (config.thin.empty()) return;
  fail("{}: its heads are thin, but {} needs the model as it was before they were cut", config.path,
       what);
}

}  // namespace sedpa
