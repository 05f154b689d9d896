#include "sedpa/model/random_model.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <span>
#include <string_view>

#include "sedpa/core/fail.h"
#include "sedpa/format/quant_blocks.h"
#include "sedpa/model/layer_shape.h"
#include "sedpa/model/thin_heads.h"

namespace sedpa {
namespace {

struct Shape {
  std::string_view name;
  std::int32_t layers, width, query_heads, kv_heads, head_dim, mlp_width, vocab_size;
  std::int64_t context;
  double rope_base;
  bool tied;
};

// As in the config.json of each release.
constexpr std::array<Shape, 8> kShapes = {{
    {"smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 8192, 100000, true},
    {"smollm2-360m", 32, 960, 15, 5, 64, 2560, 49152, 8192, 100000, true},
    {"llama3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 500000, true},
    {"llama3.2-3b", 28, 3072, 24, 8, 128, 8192, 128256, 131072, 500000, true},
    {"llama2-7b", 32, 4096, 32, 32, 128, 11008, 32000, 4096, 10000, false},
    {"mistral-7b", 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1000000, false},
    {"llama3-8b", 32, 4096, 32, 8, 128, 14336, 128256, 8192, 500000, false},
    {"llama3-70b", 80, 8192, 64, 8, 128, 28672, 128256, 8192, 500000, false},
}};

constexpr std::array kDtypes = {Dtype::f32,  Dtype::f16,  Dtype::bf16, Dtype::q8_0,
                                Dtype::q4_0, Dtype::q4_1, Dtype::q5_0, Dtype::q5_1,
                                Dtype::q4_k, Dtype::q5_k, Dtype::q6_k, Dtype::iq4_nl};

constexpr std::int64_t kRows = 61;  // different rows of each width: prime, so that tiles differ

/// A type that is read but not written: blocks of any bytes are numbers once their factors are set.
struct ChanceBlocks {
  Dtype dtype;
  std::int64_t factor_at;        // f16, in the block
  std::int64_t least_factor_at;  // f16; 0: there is none
  double spread;                 // root mean square of a block's numbers, in factors
  double least;                  // the factor of minimums that makes their mean zero, in factors
};
constexpr std::array<ChanceBlocks, 4> kChanceBlocks = {{
    {Dtype::q4_k, 0, 2, 258, 7.5},
    {Dtype::q5_k, 0, 2, 526, 15.5},
    {Dtype::q6_k, 208, 0, 1365, 0},
    {Dtype::iq4_nl, 0, 0, 67.4, 0},
}};

const ChanceBlocks* chance_blocks(Dtype dtype) {
  const auto* const found = std::ranges::find(kChanceBlocks, dtype, &ChanceBlocks::dtype);
  return found == kChanceBlocks.end() ? nullptr : found;
}

/// Blocks whose numbers have this root mean square.
void fill(const ChanceBlocks& of, double size, std::mt19937_64& random,
          std::span<std::byte> blocks) {
  for (std::byte& b : blocks) b = static_cast<std::byte>(random() >> 56);
  const auto put = [&](std::size_t at, double factor) {
    const std::uint16_t bits = f32_to_f16(static_cast<float>(factor));
    std::memcpy(blocks.data() + at, &bits, sizeof bits);
  };
  const auto bytes = static_cast<std::size_t>(block_bytes(of.dtype));
  const double factor = size / of.spread;
  for (std::size_t at = 0; at < blocks.size(); at += bytes) {
    put(at + static_cast<std::size_t>(of.factor_at), factor);
    if (of.least_factor_at > 0) {
      put(at + static_cast<std::size_t>(of.least_factor_at), factor * of.least);
    }
  }
}

std::string shape_names() {
  std::string names;
  for (const Shape& shape : kShapes)
    names += fmt::format("{}{}", names.empty() ? "" : ", ", shape.name);
  return names;
}

Dtype parse_dtype(std::string_view text) {
  std::string names;
  for (const Dtype dtype : kDtypes) {
    if (name(dtype) == text) return dtype;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name(dtype));
  }
  fail("type of a shape is '{}', expected one of {}", text, names);
}

/// Takes "-WORDrest" off the end of a name and gives the rest; nothing when it is not there.
std::optional<std::string_view> take_suffix(std::string_view& name, std::string_view word) {
  const std::string mark = fmt::format("-{}", word);
  const std::size_t at = name.rfind(mark);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = name.substr(at + mark.size());
  name = name.substr(0, at);
  return rest;
}

std::int32_t parse_number(std::string_view digits, std::string_view word, const std::string& text) {
  std::int32_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size() || number < 1) {
    fail("{} of shape '{}' is '{}', expected a number of at least 1", word, text, digits);
  }
  return number;
}

/// Takes "-WORD1234" off the end of a name; 0 when it is not there.
std::int32_t take_number(std::string_view& name, std::string_view word, const std::string& text) {
  const auto digits = take_suffix(name, word);
  return digits ? parse_number(*digits, word, text) : 0;
}

/// Takes "-thin96x64" off the end of a name; zeros when it is not there.
HeadWidths take_widths(std::string_view& name, const std::string& text) {
  const auto widths = take_suffix(name, "thin");
  if (!widths) return {};
  const std::size_t cross = widths->find('x');
  if (cross == std::string_view::npos) {
    fail("thin heads of shape '{}' are '{}', expected two widths as in 96x64", text, *widths);
  }
  return {.key = parse_number(widths->substr(0, cross), "key width", text),
          .value = parse_number(widths->substr(cross + 1), "value width", text)};
}

/// Every KV head of these widths. The planes are spread evenly over all that there are.
ThinHeads equal_heads(const ModelConfig& c, HeadWidths widths) {
  const auto heads = static_cast<std::size_t>(c.layers) * static_cast<std::size_t>(c.kv_heads);
  const std::vector<std::int64_t> keys(heads, widths.key);
  const std::vector<std::int64_t> values(heads, widths.value);
  std::vector<std::int64_t> planes;
  const std::int64_t kept = widths.key / 2;
  for (std::size_t head = 0; head < heads; ++head) {
    for (std::int64_t i = 0; i < kept; ++i) planes.push_back(i * (c.head_dim / 2) / kept);
  }
  return read_thin_heads(
      c, {.prefix = "", .key_widths = keys, .value_widths = values, .rope_planes = planes});
}

/// Numbers of a matrix's row, of every kind that there is; 0: no factors.
std::array<std::int64_t, 4> row_widths(const NamedShape& shape) {
  const ModelConfig& config = shape.config;
  return {config.width, layer_columns(config, 0).out_cols,  // layers are alike
          config.mlp_width, shape.rank};
}

}  // namespace

NamedShape parse_shape(const std::string& text) {
  const std::size_t colon = text.find(':');
  std::string_view wanted = std::string_view(text).substr(0, colon);
  // "-rank1024", before it "-thin96x64", and before that "-layer8", only so many of its layers.
  const std::int32_t rank = take_number(wanted, "rank", text);
  const HeadWidths widths = take_widths(wanted, text);
  const std::int32_t layers = take_number(wanted, "layer", text);
  const auto* shape = std::find_if(kShapes.begin(), kShapes.end(),
                                   [&](const Shape& s) { return s.name == wanted; });
  if (shape == kShapes.end()) {
    fail("shape is '{}', expected one of {}, and a type behind a colon", text, shape_names());
  }
  NamedShape result;
  result.rank = rank;
  if (colon != std::string::npos)
    result.dtype = parse_dtype(std::string_view(text).substr(colon + 1));
  if (rank % block_size(result.dtype) != 0) {
    fail("rank of shape '{}' is {}, expected a multiple of {}", text, rank,
         block_size(result.dtype));
  }
  ModelConfig& c = result.config;
  c.path = c.name = text;
  c.architecture = "llama";
  if (layers > shape->layers) {
    fail("layers of shape '{}' are {}, but {} has {}", text, layers, shape->name, shape->layers);
  }
  c.layers = layers > 0 ? layers : shape->layers;
  c.width = shape->width;
  c.query_heads = shape->query_heads;
  c.kv_heads = shape->kv_heads;
  c.head_dim = shape->head_dim;
  c.mlp_width = shape->mlp_width;
  c.vocab_size = shape->vocab_size;
  c.trained_context = shape->context;
  c.tied_output = shape->tied;
  c.rope_style = RopeStyle::halves;
  c.rope_dim = shape->head_dim;
  c.rope_base = shape->rope_base;
  if (widths.key > 0) c.thin = equal_heads(c, widths);
  for (const std::int64_t cols : row_widths(result)) {
    if (cols % block_size(result.dtype) == 0) continue;
    fail("shape '{}' has rows of {} numbers, but {} comes in blocks of {}", text, cols,
         name(result.dtype), block_size(result.dtype));
  }
  return result;
}

RandomWeights::RandomWeights(const NamedShape& shape)
    : tied_(shape.config.tied_output.value_or(false)),
      dtype_(shape.dtype),
      rank_(shape.rank),
      first_factored_(shape.config.layers / 4) {
  std::mt19937_64 random(1);
  for (const std::int64_t cols : row_widths(shape)) {
    std::vector<std::byte>& rows = rows_[cols];
    if (!rows.empty() || cols == 0) continue;
    const std::int64_t stride = row_bytes(dtype_, cols);
    rows.resize(static_cast<std::size_t>(kRows * stride));
    // Of a size that keeps activations near theirs, so that nothing overflows or vanishes.
    const double size = std::sqrt(3.0 / static_cast<double>(cols));
    if (const auto* const blocks = chance_blocks(dtype_)) {
      fill(*blocks, size / std::sqrt(3.0), random, rows);
      continue;
    }
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (std::int64_t i = 0; i < kRows; ++i) {
      for (float& number : row) {
        number = static_cast<float>(size * (2 * static_cast<double>(random() >> 11) * 0x1p-53 - 1));
      }
      quantize_row(dtype_, row.data(), cols, rows.data() + i * stride);
    }
  }
}

bool RandomWeights::has(const Place& place) const { return place.role != Role::output || !tied_; }

std::int64_t RandomWeights::rank(const Place& place) const {
  const bool smaller = rank_ * (place.rows + place.cols) < place.rows * place.cols;
  return is_attention(place.role) && smaller && place.layer >= first_factored_ ? rank_ : 0;
}

Dtype RandomWeights::dtype(const Place& place) const {
  return place.rows == 0 ? Dtype::f32 : dtype_;
}

std::uint64_t RandomWeights::source_bytes(const Place& place) const {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(place.rows, 1) *
                                    row_bytes(dtype(place), place.cols));
}

MatrixSource RandomWeights::matrix(const Place& place) const {
  const std::vector<std::byte>& rows = rows_.at(place.cols);
  const std::int64_t stride = row_bytes(dtype_, place.cols);
  // Every matrix begins at another of the rows.
  const std::int64_t shift = place.layer * 7 + static_cast<std::int64_t>(place.role) * 3;
  return {.dtype = dtype_,
          .rows = place.rows,
          .cols = place.cols,
          .read = [&rows, stride, shift](std::int64_t first, std::int64_t count, std::byte* out) {
            for (std::int64_t i = 0; i < count; ++i) {
              std::memcpy(out + i * stride, rows.data() + (first + i + shift) % kRows * stride,
                          static_cast<std::size_t>(stride));
            }
          }};
}

std::vector<float> RandomWeights::vector(const Place& place) const {
  return std::vector<float>(static_cast<std::size_t>(place.cols), 1.0f);
}

}  // namespace sedpa
