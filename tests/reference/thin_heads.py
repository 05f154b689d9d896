#!/usr/bin/env python3
"""Models of thin heads in Hugging Face transformers (docs/formats.md, "Thin heads").

`make_thin` puts an attention of such heads in place of transformers' own, in every layer;
low_rank.py does it for a directory, hf_logits.py for a GGUF file, so both run thin models too.

    thin_heads.py --vectors tests/data/models

makes the tiny thin models there, with the logits that they give in float64, and adds them to
cases.json. Before it writes one, it puts the same numbers into whole heads, zeros where a thin head
has none, and runs them through transformers' own attention: both must agree. Needs torch,
transformers, safetensors, gguf.
"""
import argparse
import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(pathlib.Path(__file__).parent))

# Architecture, RoPE, element type, and (key width, value width) of each KV head, layer by layer.
MIXED = [[(16, 32), (32, 16)], [(32, 32), (32, 32)], [(48, 64), (16, 64)]]
VECTORS = {
    "llama-thin": dict(arch="Llama", config=dict(hidden_size=48), rope={}, dtype=torch.float16,
                       widths=MIXED, gguf=True),
    # Biases of query, key and value; another RoPE base.
    "qwen2-thin": dict(arch="Qwen2", config=dict(tie_word_embeddings=True, sliding_window=None),
                       rope=dict(rope_theta=1000000.0), dtype=torch.bfloat16,
                       widths=[[(48, 48), (48, 48)], [(64, 16), (64, 32)], [(16, 64), (32, 64)]]),
}  # fmt: skip
HEAD_DIM = 64


class ThinAttention(torch.nn.Module):
    """Causal attention of KV heads of these widths: [(key, value)], planes [heads][key / 2]."""

    def __init__(self, whole, config, widths, planes):
        super().__init__()
        self.widths, self.planes = widths, planes
        self.group = config.num_attention_heads // config.num_key_value_heads
        self.scale = whole.head_dim**-0.5
        keys, values = (sum(width[i] for width in widths) for i in (0, 1))
        hidden = config.hidden_size
        for name, rows in (("q_proj", self.group * keys), ("k_proj", keys), ("v_proj", values)):
            bias = getattr(whole, name).bias is not None
            setattr(self, name, torch.nn.Linear(hidden, rows, bias=bias))
        self.o_proj = torch.nn.Linear(self.group * values, hidden,
                                      bias=whole.o_proj.bias is not None)  # fmt: skip

    def forward(self, hidden_states, position_embeddings, attention_mask=None, **_):
        x = hidden_states
        tokens = x.shape[1]
        cos, sin = position_embeddings  # [batch, tokens, head_dim]: plane i at i and i + head_dim / 2
        hidden_keys = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        each_key = [key for key, _ in self.widths]
        each_value = [value for _, value in self.widths]
        queries = self.q_proj(x).split([self.group * key for key in each_key], dim=-1)
        keys = self.k_proj(x).split(each_key, dim=-1)
        values = self.v_proj(x).split(each_value, dim=-1)
        outputs = []
        for head, planes in enumerate(self.planes):
            own_cos, own_sin = cos[..., planes], sin[..., planes]

            def turn(numbers):
                first, second = numbers.chunk(2, dim=-1)
                return torch.cat([first * own_cos - second * own_sin,
                                  second * own_cos + first * own_sin], dim=-1)  # fmt: skip

            key = turn(keys[head])
            for query in queries[head].split(each_key[head], dim=-1):
                scores = turn(query) @ key.transpose(-1, -2) * self.scale
                scores = scores.masked_fill(hidden_keys, -torch.inf)
                outputs.append(torch.softmax(scores, dim=-1) @ values[head])
        return self.o_proj(torch.cat(outputs, dim=-1)), None


def make_thin(model, thin):
    """Gives each layer of `model` the heads that `thin`, config.json's object, says; None: none."""
    if thin is None:
        return model
    heads = model.config.num_key_value_heads
    planes = iter(thin["rope_planes"])
    widths = list(zip(thin["key_widths"], thin["value_widths"], strict=True))
    for i, layer in enumerate(model.model.layers):
        own = widths[i * heads : (i + 1) * heads]
        own_planes = [[next(planes) for _ in range(key // 2)] for key, _ in own]
        layer.self_attn = ThinAttention(layer.self_attn, model.config, own, own_planes)
    return model


def per_head(thin, layers, heads):
    """[layers][heads] of (key width, value width, planes)."""
    planes = iter(thin["rope_planes"])
    widths = iter(zip(thin["key_widths"], thin["value_widths"], strict=True))
    return [[(key, value, [next(planes) for _ in range(key // 2)])
             for key, value in (next(widths) for _ in range(heads))]
            for _ in range(layers)]  # fmt: skip


def in_whole_heads(state, thin, config):
    """The state of the model with whole heads that computes the same: zeros where there was none."""
    heads, half = config.num_key_value_heads, HEAD_DIM // 2
    group = config.num_attention_heads // heads
    whole = dict(state)
    for layer, own in enumerate(per_head(thin, config.num_hidden_layers, heads)):
        turning, kept = [], []  # rows of whole keys, of whole values
        for key, value, planes in own:
            turning.append(planes + [plane + half for plane in planes])
            kept.append(list(range(value)))
        for name, rows, count, axis in (("q", turning, group, 0), ("k", turning, 1, 0),
                                        ("v", kept, 1, 0), ("o", kept, group, 1)):  # fmt: skip
            index = [(h * count + g) * HEAD_DIM + row
                     for h in range(heads) for g in range(count) for row in rows[h]]  # fmt: skip
            for kind in ("weight", "bias"):
                full = f"model.layers.{layer}.self_attn.{name}_proj.{kind}"
                if full not in state or (kind == "bias" and axis == 1):
                    continue
                shape = list(state[full].shape)
                shape[axis] = heads * count * HEAD_DIM
                whole[full] = torch.zeros(shape, dtype=state[full].dtype)
                whole[full].index_copy_(axis, torch.tensor(index), state[full])
    return whole


def halves_to_neighbours(rows, widths):
    """Pairs (i, i + d/2) to (2i, 2i+1), in each run of rows of these widths."""
    return torch.cat([run.reshape(2, width // 2, -1).swapaxes(0, 1).reshape(run.shape)
                      for run, width in zip(rows.split(widths), widths)])  # fmt: skip


def write_gguf(path, state, thin, config):
    """As llama.cpp's converter names and orders a Llama."""
    import gguf
    from hf_logits import GLOBAL_NAMES, LAYER_NAMES

    def stored(values):  # vectors in f32, as everywhere
        return (values if values.dim() > 1 else values.float()).contiguous().numpy()

    to_gguf = {hf: name for name, hf in (GLOBAL_NAMES | LAYER_NAMES).items()}
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_key_length(HEAD_DIM)
    out.add_value_length(HEAD_DIM)
    out.add_rope_dimension_count(HEAD_DIM)
    out.add_rope_freq_base(10000.0)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_tokenizer_model("no_vocab")
    for key, values in thin.items():
        out.add_array(f"sedpa.thin.{key}", values)
    heads = config.num_key_value_heads
    group = config.num_attention_heads // heads
    for name, values in state.items():
        stem, _, kind = name.rpartition(".")
        if stem in to_gguf:
            out.add_tensor(f"{to_gguf[stem]}.{kind}", stored(values))
            continue
        layer, _, place = stem.removeprefix("model.layers.").partition(".")
        keys = thin["key_widths"][int(layer) * heads : (int(layer) + 1) * heads]
        if place == "self_attn.q_proj":
            values = halves_to_neighbours(values, [key for key in keys for _ in range(group)])
        if place == "self_attn.k_proj":
            values = halves_to_neighbours(values, keys)
        out.add_tensor(f"blk.{layer}.{to_gguf[place]}.{kind}", stored(values))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def make_vectors(models):
    from low_rank import logits_of
    from make_tiny_models import (TOKENS, config_json, exact_logits, make_config, make_model,
                                  random_weights)  # fmt: skip

    path = models / "cases.json"
    cases = {case["name"]: case for case in json.loads(path.read_text())}
    for number, (name, spec) in enumerate(VECTORS.items()):
        generator = torch.Generator().manual_seed(3000 + number)
        config = make_config(spec, head_dim=HEAD_DIM, num_hidden_layers=len(spec["widths"]))
        config.architectures = [spec["arch"] + "ForCausalLM"]
        config.dtype = spec["dtype"]
        flat = [width for layer in spec["widths"] for width in layer]
        planes = [sorted(torch.randperm(HEAD_DIM // 2, generator=generator)[: key // 2].tolist())
                  for key, _ in flat]  # fmt: skip
        thin = dict(key_widths=[key for key, _ in flat], value_widths=[value for _, value in flat],
                    rope_planes=[plane for own in planes for plane in own])  # fmt: skip
        model = make_thin(make_model(config), thin)
        random_weights(model, generator, spec["dtype"])
        tokens = torch.randint(0, config.vocab_size, (TOKENS,), generator=generator).tolist()

        directory = models / name
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir()
        text = config_json(name, config) | {"sedpa_thin_heads": thin}
        (directory / "config.json").write_text(json.dumps(text) + "\n")
        state = {k: v.detach().to(spec["dtype"]).contiguous().clone()
                 for k, v in model.state_dict().items()}  # fmt: skip
        if config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})

        logits = logits_of(directory, tokens, torch.float64)
        error = float(np.abs(logits_of(directory, tokens, torch.float32) - logits).max())
        whole = make_model(config)
        whole.load_state_dict(in_whole_heads(state, thin, config), strict=False)
        difference = np.abs(exact_logits(whole, tokens) - logits).max()
        assert difference < 1e-9, f"{name}: {difference} from the same numbers in whole heads"
        moved = text | {"sedpa_thin_heads": thin | {
            "rope_planes": [i for key in thin["key_widths"] for i in range(key // 2)]}}  # fmt: skip
        (directory / "config.json").write_text(json.dumps(moved) + "\n")
        shown = np.abs(logits_of(directory, tokens, torch.float64) - logits).max()
        (directory / "config.json").write_text(json.dumps(text) + "\n")
        assert shown > 0.05, f"{name}: the planes move logits by {shown} only"
        logits.astype("<f4").tofile(models / f"{name}.logits")
        cases[name] = dict(name=name, model=name, logits=f"{name}.logits", tokens=tokens,
                           vocabulary=logits.shape[1], f32_error=error)  # fmt: skip
        if spec.get("gguf"):
            file = f"{name}.gguf"
            write_gguf(models / file, state, thin, config)
            cases[f"{name}-gguf"] = cases[name] | dict(name=f"{name}-gguf", model=file)
        print(f"{name:24} f32 error {error:.2e}, {shown:.2f} from other planes")
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases.values()) + "\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=pathlib.Path, metavar="MODELS", required=True)
    make_vectors(parser.parse_args().vectors)


if __name__ == "__main__":
    main()
