#!/usr/bin/env python3
"""A checkpoint of Llama-2-7B's shape with random numbers, as a Hugging Face directory in bf16: what
`scripts/gpu-figures OUT compress` compresses.

    make_llama2_shape.py DIR [--layers 32] [--width 4096] [--device cuda]

Weights are normal with the standard deviation that such models begin with, 0.02, and 0.02 / sqrt(2
layers) for what adds to the residual stream, so that activations stay as they are over all layers.
The same seed, device and shape give the same numbers. Every layer is a file. The tokenizer is the
tiny one of tests/data/tokenizer/llama2, filled up with tokens that no text gives.

Takes torch where it is there, on a GPU by choice (13.5 GB in seconds), else numpy.
"""
import argparse
import json
import math
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
VOCABULARY = 32000


class Numbers:
    """Random bf16 numbers as bytes."""

    def __init__(self, device, seed):
        self.seed = seed
        try:
            import torch
        except ImportError:
            if device != "cpu":
                raise
            import numpy
            self.numpy, self.random = numpy, numpy.random.default_rng(seed)
            self.make = self.by_numpy
            return
        self.torch, self.device = torch, device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.make = self.by_torch

    def by_torch(self, count, deviation):
        numbers = self.torch.empty(count, dtype=self.torch.float32, device=self.device)
        numbers.normal_(0.0, deviation, generator=self.generator)
        return numbers.bfloat16().view(self.torch.int16).cpu().numpy().tobytes()

    def by_numpy(self, count, deviation):
        numbers = self.random.standard_normal(count, dtype=self.numpy.float32)
        bits = (numbers * self.numpy.float32(deviation)).view(self.numpy.uint32)
        # To nearest even; none is so large or so odd that the sum would run over.
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(self.numpy.uint16).tobytes()

    def ones(self, count):
        return struct.pack("<H", 0x3F80) * count


def write_shard(path, tensors):
    """tensors: (name, shape, the bytes of its bf16 numbers when called)."""
    header, begin = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        end = begin + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape, data in tensors:
            file.write(data())
    return begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096, help="a multiple of 128")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    layers, width = options.layers, options.width
    if width % 128 != 0 or layers < 1:
        parser.error("width is a multiple of 128, and there is a layer")
    heads, mlp = width // 128, width * 11008 // 4096
    numbers = Numbers(options.device, options.seed)
    residual = 0.02 / math.sqrt(2 * layers)

    def matrix(name, rows, cols, deviation=0.02):
        return name + ".weight", [rows, cols], lambda: numbers.make(rows * cols, deviation)

    def norm(name):
        return name + ".weight", [width], lambda: numbers.ones(width)

    def layer(i):
        at = f"model.layers.{i}."
        return [
            norm(at + "input_layernorm"),
            *(matrix(at + f"self_attn.{name}_proj", width, width) for name in "qkv"),
            matrix(at + "self_attn.o_proj", width, width, residual),
            norm(at + "post_attention_layernorm"),
            matrix(at + "mlp.gate_proj", mlp, width),
            matrix(at + "mlp.up_proj", mlp, width),
            matrix(at + "mlp.down_proj", width, mlp, residual),
        ]

    shards = [[matrix("model.embed_tokens", VOCABULARY, width)]]
    shards += [layer(i) for i in range(layers)]
    shards += [[norm("model.norm"), matrix("lm_head", VOCABULARY, width)]]

    options.directory.mkdir(parents=True)
    total, weight_map = 0, {}
    for i, tensors in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        total += write_shard(options.directory / name, tensors)
        weight_map.update((tensor[0], name) for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (options.directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", torch_dtype="bfloat16",
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, hidden_act="silu",
        max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None,
        tie_word_embeddings=False, attention_bias=False, bos_token_id=1, eos_token_id=2)  # fmt: skip
    (options.directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tokenizer = json.loads((HERE.parent / "data/tokenizer/llama2/tokenizer.json").read_text())
    known = len(tokenizer["model"]["vocab"]) + sum(
        token["content"] not in tokenizer["model"]["vocab"] for token in tokenizer["added_tokens"])
    tokenizer["model"]["vocab"].update((f"<filler {i}>", i) for i in range(known, VOCABULARY))
    (options.directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    print(f"{options.directory}: {layers} layers of {width}, {total} bytes of weights")


if __name__ == "__main__":
    main()
