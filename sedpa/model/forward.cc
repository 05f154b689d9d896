#include "sedpa/model/forward.h"

namespace sedpa {

void forward(Ops& ops, const Model& model, const KvCache& cache, const Activations& a,
             const StepKey& key, const AttentionObserver& observer) {
  const ModelConfig& c = model.config;
  const auto chunk = [&](Rows rows) { return rows.range(0, key.tokens); };
  const Rows qkv = chunk(a.qkv);
  const std::int64_t query_cols = std::int64_t{c.query_heads} * c.head_dim;
  const std::int64_t key_cols = std::int64_t{c.kv_heads} * c.head_dim;

  ops.embed(model.embedding, chunk(a.x));
  for (std::int32_t i = 0; i < c.layers; ++i) {
    const Layer& layer = model.layers[static_cast<std::size_t>(i)];
    ops.rms_norm(chunk(a.x), layer.attention_norm, c.norm_epsilon, chunk(a.h));
    ops.linear(layer.qkv, chunk(a.h), qkv);
    if (!layer.query_norm.empty()) {
      const Rows queries = qkv.columns(0, query_cols);
      const Rows keys = qkv.columns(query_cols, key_cols);
      ops.head_norm(queries, layer.query_norm, c.norm_epsilon, queries);
      ops.head_norm(keys, layer.key_norm, c.norm_epsilon, keys);
    }
    ops.rope(qkv);
    ops.attention(qkv, cache.layer(i), chunk(a.o));
    ops.commit(qkv, cache.layer(i));
    if (observer) observer(i, qkv, chunk(a.o));

    // Nothing after the last layer's attention looks at another row, so only rows that get logits
    // go on.
    const std::int64_t rows = i + 1 < c.layers ? key.tokens : key.logit_rows;
    if (rows == 0) return;
    const auto rest = [&](Rows all) { return all.range(key.tokens - rows, rows); };
    ops.linear_add(layer.output, rest(a.o), rest(a.x), rest(a.x));
    ops.rms_norm(rest(a.x), layer.mlp_norm, c.norm_epsilon, rest(a.h));
    ops.linear(layer.gate_up, rest(a.h), rest(a.gate_up));
    ops.swiglu(rest(a.gate_up), rest(a.act));
    ops.linear_add(layer.down, rest(a.act), rest(a.x), rest(a.x));
  }
  const std::int64_t first = key.tokens - key.logit_rows;
  const Rows last = a.x.range(first, key.logit_rows);
  const Rows normed = a.h.range(first, key.logit_rows);
  ops.rms_norm(last, model.output_norm, c.norm_epsilon, normed);
  ops.linear(model.output, normed, a.logits.range(0, key.logit_rows));
}

}  // namespace sedpa
