#include "sedpa/model/lora.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "sedpa/core/fail.h"
#include "sedpa/core/hash.h"
#include "sedpa/format/quant_blocks.h"

namespace sedpa {
namespace {

constexpr std::string_view kSuffixA = ".lora_a";
constexpr std::string_view kSuffixB = ".lora_b";

constexpr Role kMatrixRoles[] = {Role::query, Role::key, Role::value, Role::attention_output,
                                 Role::gate,  Role::up,  Role::down};

std::vector<float> read_matrix(const std::string& path, const TensorInfo& tensor) {
  if (tensor.dtype != Dtype::f32 && tensor.dtype != Dtype::f16 && tensor.dtype != Dtype::q8_0) {
    fail("{}: tensor {} is {}, expected f32, f16 or q8_0", path, tensor.name, name(tensor.dtype));
  }
  const std::int64_t cols = tensor.cols();
  const std::int64_t stride = row_bytes(tensor.dtype, cols);
  std::vector<float> values(static_cast<std::size_t>(tensor.count()));
  for (std::int64_t row = 0; row < tensor.rows(); ++row) {
    dequantize_row(tensor.dtype, tensor.data.data() + row * stride, cols,
                   values.data() + row * cols);
  }
  return values;
}

void expect_shape(const std::string& path, const TensorInfo& tensor, std::int64_t rows,
                  std::int64_t cols) {
  const std::vector<std::int64_t> expected = {rows, cols};
  if (tensor.shape != expected) {
    fail("{}: tensor {} has shape {}, but the model needs {}", path, tensor.name,
         tensor.shape_text(), shape_text(expected));
  }
}

// GGUF's Llama rows pair neighbours, Hugging Face's pair halves: where row `row` of the latter
// stands in the former.
std::int64_t neighbour_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim;
  const std::int64_t half = row % head_dim / (head_dim / 2);
  const std::int64_t pair = row % (head_dim / 2);
  return head * head_dim + 2 * pair + half;
}

}  // namespace

LoraRequest LoraRequest::parse(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon != std::string::npos && colon + 1 < text.size()) {
    char* end = nullptr;
    const float scale = std::strtof(text.c_str() + colon + 1, &end);
    if (*end == '\0' && std::isfinite(scale)) return {text.substr(0, colon), scale};
  }
  return {text, 1.0f};
}

LoraAdapter LoraAdapter::open(const LoraRequest& request, const Checkpoint& checkpoint) {
  LoraAdapter adapter(GgufFile::open(request.path));
  const GgufFile& file = adapter.file_;
  const std::string& path = file.path();
  const std::string type = file.find_string("general.type").value_or("");
  const std::string kind = file.find_string("adapter.type").value_or("");
  if (type != "adapter" || kind != "lora") {
    fail(
        "{}: is no LoRA adapter (general.type '{}', adapter.type '{}'), expected 'adapter' and "
        "'lora'",
        path, type, kind);
  }
  const ModelConfig& config = checkpoint.config();
  const std::string architecture = file.require_string("general.architecture");
  const std::string own = config.architecture == "mistral" ? "llama" : config.architecture;
  if (architecture != own) {
    fail("{}: adapter is for architecture '{}', but {} is '{}'", path, architecture,
         checkpoint.path(), own);
  }
  const double alpha = file.find_float("adapter.lora.alpha").value_or(0);

  const bool reorder = own == "llama" && config.rope_style == RopeStyle::halves;
  std::size_t used = 0;
  for (std::int32_t layer = 0; layer < config.layers; ++layer) {
    for (const Role role : kMatrixRoles) {
      const std::string name = gguf_tensor_name(role, layer);
      const TensorInfo* a = file.find_tensor(name + std::string(kSuffixA));
      const TensorInfo* b = file.find_tensor(name + std::string(kSuffixB));
      if (a == nullptr && b == nullptr) continue;
      if (a == nullptr || b == nullptr) {
        fail("{}: tensor {} has {} but not its partner", path, name,
             a != nullptr ? kSuffixA : kSuffixB);
      }
      const TensorInfo* base = checkpoint.find(role, layer);
      if (base == nullptr && checkpoint.find(role, layer, Factor::a) != nullptr) {
        fail("{}: changes {}, which {} stores as low-rank factors: give the adapter to compress",
             path, name, checkpoint.path());
      }
      if (base == nullptr) fail("{}: changes {}, which the model does not have", path, name);
      if (is_attention(role) && !config.thin.empty()) {
        fail("{}: changes {}, but the heads of {} are thin: give the adapter to compress", path,
             name, checkpoint.path());
      }
      Factors factors;
      factors.rank = a->rows();
      expect_shape(path, *a, factors.rank, base->cols());
      expect_shape(path, *b, base->rows(), factors.rank);
      factors.scale = request.scale;
      if (alpha != 0)
        factors.scale *= static_cast<float>(alpha / static_cast<double>(factors.rank));
      factors.a = read_matrix(path, *a);
      factors.b = read_matrix(path, *b);
      if (reorder && (role == Role::query || role == Role::key)) {
        const std::vector<float> from = factors.b;
        for (std::int64_t row = 0; row < base->rows(); ++row) {
          std::copy_n(from.data() + neighbour_row(row, config.head_dim) * factors.rank,
                      factors.rank, factors.b.data() + row * factors.rank);
        }
      }
      used += 2;
      adapter.factors_.emplace_back(name, std::move(factors));
    }
  }
  for (const TensorInfo& tensor : file.tensors()) {
    tensor.file->drop(tensor.offset, tensor.data.size());
  }
  std::sort(adapter.factors_.begin(), adapter.factors_.end(),
            [](const auto& x, const auto& y) { return x.first < y.first; });
  if (used != file.tensors().size()) {
    const auto fits = [&](const TensorInfo& tensor) {
      const std::size_t end = tensor.name.rfind(".lora_");
      return end != std::string::npos &&
             std::any_of(adapter.factors_.begin(), adapter.factors_.end(),
                         [&](const auto& f) { return f.first == tensor.name.substr(0, end); });
    };
    for (const TensorInfo& tensor : file.tensors()) {
      if (!fits(tensor)) {
        fail("{}: tensor {} fits no attention or MLP matrix of the model's {} layers", path,
             tensor.name, config.layers);
      }
    }
  }
  if (const auto context = file.find_uint(architecture + ".context_length")) {
    if (*context == 0 || *context > (std::uint64_t{1} << 28)) {
      fail("{}: {}.context_length is {}, expected 1 to {}", path, architecture, *context,
           std::uint64_t{1} << 28);
    }
    adapter.context_length_ = static_cast<std::int64_t>(*context);
  }
  if (const auto base = file.find_float(architecture + ".rope.freq_base")) {
    if (!(*base > 1) || !std::isfinite(*base)) {
      fail("{}: {}.rope.freq_base is {}, expected a number above 1", path, architecture, *base);
    }
    adapter.rope_base_ = *base;
  }
  return adapter;
}

const LoraAdapter::Factors* LoraAdapter::find(Role role, std::int32_t layer) const {
  const std::string name = gguf_tensor_name(role, layer);
  const auto at = std::lower_bound(factors_.begin(), factors_.end(), name,
                                   [](const auto& f, const std::string& n) { return f.first < n; });
  return at != factors_.end() && at->first == name ? &at->second : nullptr;
}

bool LoraAdapter::changes(Role role, std::int32_t layer) const {
  return find(role, layer) != nullptr;
}

std::string LoraAdapter::fingerprint() const {
  Hash hash;
  for (const auto& [name, factors] : factors_) {
    hash.add(name);
    hash.add(std::as_bytes(std::span(&factors.scale, 1)));
    hash.add(std::as_bytes(std::span(factors.a)));
    hash.add(std::as_bytes(std::span(factors.b)));
  }
  return hash.digits();
}

void LoraAdapter::add_to(Role role, std::int32_t layer, std::int64_t first, std::int64_t count,
                         std::int64_t cols, float* rows) const {
  const Factors* factors = find(role, layer);
  if (factors == nullptr) return;
  for (std::int64_t i = 0; i < count; ++i) {
    float* row = rows + i * cols;
    const float* b = factors->b.data() + (first + i) * factors->rank;
    for (std::int64_t r = 0; r < factors->rank; ++r) {
      const float weight = factors->scale * b[r];
      const float* a = factors->a.data() + r * cols;
      for (std::int64_t j = 0; j < cols; ++j) row[j] += weight * a[j];
    }
  }
}

}  // namespace sedpa
