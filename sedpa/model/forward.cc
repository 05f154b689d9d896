#include "sedpa/model/forward.h"

#include <algorithm>

namespace sedpa {

OpsPlan forward_plan(const ModelConfig& config, std::int64_t max_tokens, std::int64_t max_context,
                     const HeadPlan& heads) {
  const AttentionShape shape = config.attention();
  return {.attention = shape,
          .rope = config.rope(),
          .max_tokens = max_tokens,
          .max_context = max_context,
          .max_cols = std::max<std::int64_t>({config.width, config.mlp_width, shape.out_cols()}),
          .max_rank = config.max_rank,
          .heads = &heads};
}

void project_qkv(Ops& ops, const Layer& layer, Rows h, Rows qkv) {
  std::int64_t column = 0;
  for (const Linear& part : layer.qkv) {
    ops.linear(part, h, qkv.columns(column, part.out_features()));
    column += part.out_features();
  }
}

void project_heads(Ops& ops, const ModelConfig& c, const Layer& layer, Rows x, Rows h, Rows qkv) {
  ops.rms_norm(x, layer.attention_norm, c.norm_epsilon, h);
  project_qkv(ops, layer, h, qkv);
  if (layer.query_norm.empty()) return;
  const LayerShape& shape = layer.shape;
  const Rows queries = qkv.columns(0, shape.key_begin);
  const Rows keys = qkv.columns(shape.key_begin, shape.value_begin - shape.key_begin);
  ops.head_norm(queries, layer.query_norm, c.norm_epsilon, queries);
  ops.head_norm(keys, layer.key_norm, c.norm_epsilon, keys);
}

void project_mlp(Ops& ops, const ModelConfig& c, const Layer& layer, Rows x, Rows o, Rows x_mid,
                 Rows h, Rows gate_up) {
  ops.linear_add(layer.output, o, x, x_mid);
  ops.rms_norm(x_mid, layer.mlp_norm, c.norm_epsilon, h);
  ops.linear(layer.gate_up, h, gate_up);
}

void forward(Ops& ops, const Model& model, const KvCache& cache, const Activations& a,
             const StepKey& key, const AttentionObserver& observer) {
  const ModelConfig& c = model.config;
  const auto chunk = [&](Rows rows) { return rows.range(0, key.tokens); };

  ops.embed(model.embedding, chunk(a.x));
  for (std::int32_t i = 0; i < c.layers; ++i) {
    const Layer& layer = model.layers[static_cast<std::size_t>(i)];
    const LayerShape& shape = layer.shape;
    const Rows qkv = chunk(a.qkv).columns(0, shape.qkv_cols);
    const Rows o = chunk(a.o).columns(0, shape.out_cols);
    project_heads(ops, c, layer, chunk(a.x), chunk(a.h), qkv);
    ops.rope(qkv, shape);
    ops.attention(qkv, shape, cache.layer(i), o);
    ops.commit(qkv, shape, cache.layer(i));
    if (observer) observer(i, qkv, o);

    // Nothing after the last layer's attention looks at another row, so only rows that get logits
    // go on.
    const std::int64_t rows = i + 1 < c.layers ? key.tokens : key.logit_rows;
    if (rows == 0) return;
    const auto rest = [&](Rows all) { return all.range(key.tokens - rows, rows); };
    project_mlp(ops, c, layer, rest(a.x), rest(o), rest(a.x), rest(a.h), rest(a.gate_up));
    ops.swiglu(rest(a.gate_up), rest(a.act));
    ops.linear_add(layer.down, rest(a.act), rest(a.x), rest(a.x));
  }
  const std::int64_t first = key.tokens - key.logit_rows;
  const Rows last = a.x.range(first, key.logit_rows);
  const Rows normed = a.h.range(first, key.logit_rows);
  ops.rms_norm(last, model.output_norm, c.norm_epsilon, normed);
  if (a.logits.rows > 0) ops.linear(model.output, normed, a.logits.range(0, key.logit_rows));
}

}  // namespace sedpa
