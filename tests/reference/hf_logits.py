#!/usr/bin/env python3
"""Logits of a GGUF model by Hugging Face transformers in float32, on its dequantised weights.

The reference behind docs/measurements.md: the numbers of a GGUF file, dequantised by the `gguf`
package, in transformers' model of the same architecture. llama, qwen2 and qwen3.

    hf_logits.py MODEL.gguf --text FILE --tokens 512 --out logits.f32
    hf_logits.py MODEL.gguf --ids 1,2,3 --out logits.f32 --lora ADAPTER.gguf --rope-base 1e6

Writes little-endian float32 [tokens, vocabulary], and OUT.json with the token ids, so that another
program can run the same ones. `--log-probs` writes log-softmax instead, `--f64` computes in float64.
With `--chunks N`, N chunks of --tokens each, one file of the second halves in the format of
llama.cpp's `llama-perplexity --kl-divergence-base`, which that program and `sedpa eval perplexity
--against` both compare themselves with.
Needs torch, transformers and gguf; run by hand.
"""
import argparse
import contextlib
import json
import math
import pathlib
import re
import struct
import sys

import gguf
import numpy as np
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from exact import every_float_is_f64  # noqa: E402
from low_rank import split_projections  # noqa: E402
from thin_heads import make_thin  # noqa: E402

ARCHITECTURES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}

# GGUF's names to transformers'.
GLOBAL_NAMES = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def hf_name(name):
    """transformers' name of a GGUF tensor; None for those that are not weights."""
    stem, _, kind = name.rpartition(".")
    stem, factor = (stem[:-2], stem[-2:]) if stem.endswith((".A", ".B")) else (stem, "")
    if stem in GLOBAL_NAMES:
        return f"{GLOBAL_NAMES[stem]}.{kind}"
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if layer and layer[2] in LAYER_NAMES:
        return f"model.layers.{layer[1]}.{LAYER_NAMES[layer[2]]}{factor}.{kind}"
    return None


def neighbours_to_halves(rows, widths):
    """Undoes the converter's order of Llama's query and key rows: pairs (2i, 2i+1) to (i, i + d/2).
    `widths`: rows of each head."""
    heads = np.split(rows, np.cumsum(widths)[:-1])
    return np.concatenate([head.reshape(-1, 2, *head.shape[1:]).swapaxes(0, 1).reshape(head.shape)
                           for head in heads])  # fmt: skip


def thin_heads_of(reader):
    """As config.json's `sedpa_thin_heads` has it; None when the model has none."""
    names = ("key_widths", "value_widths", "rope_planes")
    fields = {name: field(reader, f"sedpa.thin.{name}") for name in names}
    return None if fields["key_widths"] is None else fields


def field(reader, key, default=None):
    entry = reader.get_field(key)
    if entry is None:
        return default
    return entry.contents()


def tensors(reader):
    """{name: float32 array} of all tensors, as they stand."""
    return {t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(
        tuple(reversed([int(n) for n in t.shape]))) for t in reader.tensors}  # fmt: skip


def merge_lora(weights, path, scale):
    """W += scale * alpha / rank * B A, in float32, as llama.cpp's adapter GGUFs say."""
    reader = gguf.GGUFReader(path)
    factors = tensors(reader)
    alpha = field(reader, "adapter.lora.alpha")
    merged = 0
    for name in sorted(n for n in factors if n.endswith(".lora_a")):
        target = name[: -len(".lora_a")]
        a, b = factors[name], factors[target + ".lora_b"]
        strength = scale * (alpha / b.shape[1] if alpha else 1.0)
        # An embedding's a has a row for each token, [vocabulary, rank]: looked up, not multiplied.
        delta = a @ b.T if target == "token_embd.weight" else b @ a
        weights[target] = weights[target] + np.float32(strength) * delta
        merged += 1
    return merged


def hf_state(reader, weights):
    architecture = field(reader, "general.architecture")
    heads = field(reader, f"{architecture}.attention.head_count")
    kv_heads = field(reader, f"{architecture}.attention.head_count_kv", heads)
    thin = thin_heads_of(reader)
    state = {}
    for name, values in weights.items():
        to = hf_name(name)
        if to is None:
            continue
        # Of two factors, A has the rows.
        if architecture == "llama" and re.search(r"attn_[qk]\.(?!B)", name):
            count = heads if "attn_q." in name else kv_heads
            widths = [len(values) // count] * count
            if thin:
                layer = int(name.split(".")[1])
                keys = thin["key_widths"][layer * kv_heads : (layer + 1) * kv_heads]
                widths = np.repeat(keys, count // kv_heads)
            values = neighbours_to_halves(values, widths)
        state[to] = torch.from_numpy(np.ascontiguousarray(values))
    return state


def load_gguf_weights(model, path, lora=()):
    reader = gguf.GGUFReader(path)
    weights = tensors(reader)
    for adapter, scale in lora:
        merge_lora(weights, adapter, scale)
    state = hf_state(reader, weights)
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    make_thin(model, thin_heads_of(reader))
    state = split_projections(model, state)
    state = {name: values.to(model.dtype) for name, values in state.items()}
    model.to(model.dtype).load_state_dict(state, strict=True)


def config_of(reader, rope_base=None, context=None):
    architecture = field(reader, "general.architecture")
    if architecture not in ARCHITECTURES:
        sys.exit(f"architecture {architecture}: expected one of {', '.join(ARCHITECTURES)}")

    def get(key, default=None):
        return field(reader, f"{architecture}.{key}", default)

    names = {t.name for t in reader.tensors}
    shapes = {t.name: [int(n) for n in t.shape] for t in reader.tensors}
    heads = get("attention.head_count")
    width = get("embedding_length")
    rope = {"rope_type": "default", "rope_theta": rope_base or get("rope.freq_base", 10000.0)}
    scaling = get("rope.scaling.type", "none")
    if scaling in ("linear", "yarn"):
        rope.update(rope_type=scaling, factor=get("rope.scaling.factor"))
    if scaling == "yarn":
        rope["original_max_position_embeddings"] = get("rope.scaling.original_context_length")
    if "rope_freqs.weight" in names:
        sys.exit("rope_freqs.weight: frequency divisors are not supported here")
    config = getattr(transformers, ARCHITECTURES[architecture] + "Config")(
        vocab_size=shapes["token_embd.weight"][1], hidden_size=width,
        intermediate_size=get("feed_forward_length"), num_hidden_layers=get("block_count"),
        num_attention_heads=heads, num_key_value_heads=get("attention.head_count_kv", heads),
        head_dim=get("attention.key_length", width // heads),
        max_position_embeddings=context or get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"), rope_parameters=rope,
        tie_word_embeddings="output.weight" not in names, use_cache=False,
    )  # fmt: skip
    if architecture == "llama":
        config.attention_bias = "blk.0.attn_q.bias" in names
    config._attn_implementation = "eager"
    return config, ARCHITECTURES[architecture] + "ForCausalLM"


def tokens_of(reader, arguments):
    if arguments.ids:
        return [int(i) for i in arguments.ids.split(",")]
    if arguments.ids_file:
        return [int(i) for i in pathlib.Path(arguments.ids_file).read_text().replace(",", " ").split()]
    # The file's own byte-level BPE vocabulary, in the tokenizers library.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    splits = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if field(reader, "tokenizer.ggml.pre") == "smollm":
        splits.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    text = pathlib.Path(arguments.text).read_text(encoding="utf-8")
    return tokenizer.encode(text[: 16 * (wanted(arguments) + arguments.skip)]).ids


def wanted(arguments):
    return arguments.tokens * max(1, arguments.chunks)


def write_base(path, model, ids, context, chunks):
    """llama.cpp's file: a row is its scale, its lowest log-probability, and 16-bit codes above it."""
    vocabulary = model.config.vocab_size
    with open(path, "wb") as out:
        out.write(b"_logits_" + struct.pack("<Iii", context, vocabulary, chunks))
        out.write(np.array(ids, dtype="<i4").tobytes())
        for chunk in range(chunks):
            part = torch.tensor([ids[chunk * context : (chunk + 1) * context]])
            logits = model(part).logits[0, context // 2 : context - 1]
            rows = torch.log_softmax(logits.double(), dim=-1).numpy()
            for row in rows:
                lowest = max(row.min(), row.max() - 16)
                scale = (row.max() - lowest) / 65535
                codes = np.zeros(vocabulary + vocabulary % 2, dtype="<u2")
                codes[:vocabulary] = np.rint(np.maximum(row - lowest, 0) / scale)
                out.write(np.array([scale, lowest], dtype="<f4").tobytes() + codes.tobytes())
            print(f"chunk {chunk + 1} of {chunks}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", help="a file; its first tokens are used")
    parser.add_argument("--ids", help="token ids, comma separated, instead of a text")
    parser.add_argument("--ids-file", help="the same in a file")
    parser.add_argument("--skip", type=int, default=0, help="tokens of the text to pass over")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=0, help="chunks of --tokens, to llama.cpp's file")
    parser.add_argument("--out", required=True)
    parser.add_argument("--lora", action="append", default=[], help="FILE or FILE:scale")
    parser.add_argument("--rope-base", type=float)
    parser.add_argument("--context", type=int)
    parser.add_argument("--log-probs", action="store_true")
    parser.add_argument("--f64", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    reader = gguf.GGUFReader(arguments.model)
    ids = tokens_of(reader, arguments)[arguments.skip :][: wanted(arguments)]
    config, class_name = config_of(reader, arguments.rope_base, arguments.context)
    lora = []
    for text in arguments.lora:
        path, _, scale = text.partition(":")
        lora.append((path, float(scale) if scale else 1.0))

    with torch.no_grad(), every_float_is_f64() if arguments.f64 else contextlib.nullcontext():
        model = getattr(transformers, class_name)(config).eval()
        load_gguf_weights(model, arguments.model, lora)
        if arguments.chunks:
            return write_base(arguments.out, model, ids, arguments.tokens, arguments.chunks)
        logits = model(torch.tensor([ids])).logits[0]
        log_probs = torch.log_softmax(logits.double(), dim=-1)
    values = log_probs if arguments.log_probs else logits
    values.float().numpy().astype("<f4").tofile(arguments.out)
    pathlib.Path(arguments.out + ".json").write_text(json.dumps(
        dict(model=pathlib.Path(arguments.model).name, tokens=ids, vocabulary=int(values.shape[1]),
             log_probs=arguments.log_probs)) + "\n")  # fmt: skip
    nll = -log_probs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].mean().item()
    print(f"{len(ids)} tokens, vocabulary {values.shape[1]}, perplexity {math.exp(nll):.4f}")


if __name__ == "__main__":
    main()
