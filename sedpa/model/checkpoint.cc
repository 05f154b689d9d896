#include "sedpa/model/checkpoint.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/hash.h"

namespace sedpa {
namespace {

struct PlaceName {
  Role role;
  bool in_layer;
  std::string_view gguf;         // after "blk.N." when in a layer
  std::string_view huggingface;  // after "model.layers.N." when in a layer
};

constexpr std::array<PlaceName, 14> kPlaces = {{
    {Role::embedding, false, "token_embd", "model.embed_tokens"},
    {Role::output, false, "output", "lm_head"},
    {Role::output_norm, false, "output_norm", "model.norm"},
    {Role::attention_norm, true, "attn_norm", "input_layernorm"},
    {Role::query, true, "attn_q", "self_attn.q_proj"},
    {Role::key, true, "attn_k", "self_attn.k_proj"},
    {Role::value, true, "attn_v", "self_attn.v_proj"},
    {Role::query_norm, true, "attn_q_norm", "self_attn.q_norm"},
    {Role::key_norm, true, "attn_k_norm", "self_attn.k_norm"},
    {Role::attention_output, true, "attn_output", "self_attn.o_proj"},
    {Role::mlp_norm, true, "ffn_norm", "post_attention_layernorm"},
    {Role::gate, true, "ffn_gate", "mlp.gate_proj"},
    {Role::up, true, "ffn_up", "mlp.up_proj"},
    {Role::down, true, "ffn_down", "mlp.down_proj"},
}};

const PlaceName& place(Role role) { return kPlaces[static_cast<std::size_t>(role)]; }

std::string gguf_place(Role role, std::int32_t layer) {
  const PlaceName& p = place(role);
  return p.in_layer ? fmt::format("blk.{}.{}", layer, p.gguf) : std::string(p.gguf);
}

std::string_view suffix(Factor factor) {
  switch (factor) {
    case Factor::none:
      break;
    case Factor::a:
      return ".A.weight";
    case Factor::b:
      return ".B.weight";
  }
  return ".weight";
}

}  // namespace

std::string gguf_tensor_name(Role role, std::int32_t layer) {
  return gguf_place(role, layer).append(suffix(Factor::none));
}

Checkpoint Checkpoint::open(const std::string& path) {
  Checkpoint checkpoint;
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    checkpoint.config_ = config_from_huggingface(load_hf_config(path));
    checkpoint.config_.path = path;
    checkpoint.safetensors_ = SafetensorsCheckpoint::open(path);
    checkpoint.directory_ = path;
  } else {
    checkpoint.gguf_ = GgufFile::open(path);
    if (checkpoint.gguf_->tensors().empty()) {
      fail("{}: holds no tensors, only metadata; a file that is only a vocabulary serves tokenize",
           path);
    }
    checkpoint.config_ = config_from_gguf(*checkpoint.gguf_);
  }
  return checkpoint;
}

Checkpoint Checkpoint::without_files(ModelConfig config) {
  Checkpoint checkpoint;
  checkpoint.config_ = std::move(config);
  return checkpoint;
}

std::uint64_t Checkpoint::file_bytes() const {
  if (gguf_) return gguf_->file_bytes();
  return safetensors_ ? safetensors_->file_bytes() : 0;
}

const char* Checkpoint::format() const {
  if (gguf_) return "gguf";
  return safetensors_ ? "safetensors" : "none";
}

std::span<const TensorInfo> Checkpoint::tensors() const {
  if (gguf_) return gguf_->tensors();
  if (safetensors_) return safetensors_->tensors();
  return {};
}

std::string Checkpoint::place_name(Role role, std::int32_t layer) const {
  if (gguf_) return gguf_place(role, layer);
  const PlaceName& p = place(role);
  return p.in_layer ? fmt::format("model.layers.{}.{}", layer, p.huggingface)
                    : std::string(p.huggingface);
}

std::string Checkpoint::tensor_name(Role role, std::int32_t layer, Factor factor) const {
  return place_name(role, layer).append(suffix(factor));
}

std::string Checkpoint::bias_name(Role role, std::int32_t layer) const {
  return place_name(role, layer).append(".bias");
}

const TensorInfo* Checkpoint::find_tensor(const std::string& name) const {
  if (gguf_) return gguf_->find_tensor(name);
  return safetensors_ ? safetensors_->find_tensor(name) : nullptr;
}

const TensorInfo* Checkpoint::find(Role role, std::int32_t layer, Factor factor) const {
  return find_tensor(tensor_name(role, layer, factor));
}

const TensorInfo* Checkpoint::find_bias(Role role, std::int32_t layer) const {
  return find_tensor(bias_name(role, layer));
}

const TensorInfo& Checkpoint::require(Role role, std::int32_t layer, std::int64_t rows,
                                      std::int64_t cols, Factor factor) const {
  const TensorInfo* tensor = find(role, layer, factor);
  if (tensor == nullptr) fail("{}: tensor {} is missing", path(), tensor_name(role, layer, factor));
  const std::vector<std::int64_t> expected =
      rows == 0 ? std::vector{cols} : std::vector{rows, cols};
  if (tensor->shape != expected) {
    fail("{}: tensor {} has shape {}, expected {}", path(), tensor->name, tensor->shape_text(),
         shape_text(expected));
  }
  return *tensor;
}

std::int64_t Checkpoint::rank(Role role, std::int32_t layer, std::int64_t rows,
                              std::int64_t cols) const {
  const TensorInfo* a = find(role, layer, Factor::a);
  const TensorInfo* b = find(role, layer, Factor::b);
  if (a == nullptr && b == nullptr) return 0;
  if (a == nullptr || b == nullptr) {
    fail("{}: tensor {} is there without its partner {}", path(), (a != nullptr ? a : b)->name,
         tensor_name(role, layer, a != nullptr ? Factor::b : Factor::a));
  }
  if (const TensorInfo* whole = find(role, layer)) {
    fail("{}: tensor {} is there, and its factor {} as well, expected one or the other", path(),
         whole->name, a->name);
  }
  const std::int64_t rank = a->cols();
  const std::int64_t least_useless = ceil_div(rows * cols, rows + cols);
  if (rank >= least_useless) {
    fail("{}: tensor {} has rank {}, expected less than {}: two factors are to be smaller than {}",
         path(), a->name, rank, ceil_div(rows * cols, rows + cols),
         shape_text(std::vector{rows, cols}));
  }
  return rank;
}

Tokenizer Checkpoint::tokenizer() const {
  if (!gguf_ && !safetensors_) fail("{}: has no files, and so no vocabulary", path());
  Tokenizer tokenizer =
      gguf_ ? Tokenizer::from_gguf(*gguf_) : Tokenizer::from_huggingface(directory_);
  if (tokenizer.vocab_size() > config_.vocab_size) {
    fail("{}: the tokenizer has {} tokens, but the embedding only {} rows", path(),
         tokenizer.vocab_size(), config_.vocab_size);
  }
  return tokenizer;
}

std::string Checkpoint::fingerprint() const {
  Hash hash;
  const ModelConfig& c = config_;
  hash.add(fmt::format("{} {} {} {} {} {} {} {} {} {}", c.architecture, c.layers, c.width,
                       c.query_heads, c.kv_heads, c.head_dim, c.mlp_width, c.vocab_size,
                       c.rope_base, static_cast<int>(c.rope_scaling.method)));
  hash.add(std::as_bytes(std::span(c.thin.widths)));
  hash.add(std::as_bytes(std::span(c.thin.rope_planes)));
  constexpr std::size_t kSample = 64;  // bytes from the start and the middle of every tensor
  for (const TensorInfo& tensor : tensors()) {
    hash.add(tensor.name);
    hash.add(name(tensor.dtype));
    const std::size_t count = std::min(kSample, tensor.data.size());
    hash.add(tensor.data.first(count));
    hash.add(tensor.data.subspan((tensor.data.size() - count) / 2, count));
  }
  return hash.digits();
}

}  // namespace sedpa
