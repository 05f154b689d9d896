#!/usr/bin/env python3
"""Compressed models in Hugging Face transformers: each pair of factors as two nn.Linear.

A projection W that docs/formats.md calls factored, with tensors NAME.A.weight [out, rank] and
NAME.B.weight [rank, in], becomes Sequential(Linear(in, rank), Linear(rank, out, bias)). `load`
opens a directory that `sedpa compress` wrote; by hand:

    low_rank.py DIR --ids 1,2,3 --out logits.f32

writes logits [tokens, vocabulary] in little-endian float32, which `sedpa eval perplexity --against`
compares itself with. (hf_logits.py does the same for a GGUF file.)

    low_rank.py --vectors tests/data/models

makes the factored twins of some of the tiny models there, by numpy's SVD, with the logits that
transformers gives in float64, and adds them to cases.json. Needs torch, transformers, safetensors.
"""
import argparse
import json
import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from exact import every_float_is_f64  # noqa: E402
from thin_heads import make_thin  # noqa: E402

# Ranks by layer and projection: all four, one alone, neighbours whole and factored.
VECTORS = {
    "llama": [dict(q=16, k=8, v=6, o=20), dict(k=11)],
    "llama-linear": [dict(q=12), dict(v=8, o=16)],  # biases of all four
    "qwen3": [dict(k=12, o=24), dict(q=16, v=12)],  # norms of query and key heads
}


def split_projections(model, state):
    """Puts two Linears where `state` has factors, and gives the state under their names."""
    split = {}
    for name, values in state.items():
        stem, factor, kind = name.rpartition(".")[0], None, name.rpartition(".")[2]
        if stem.endswith((".A", ".B")):
            stem, factor = stem[:-2], stem[-1]
        if stem + ".A.weight" not in state:
            split[name] = values
            continue
        # nn.Sequential counts: B first, then A with the bias.
        split[f"{stem}.{0 if factor == 'B' else 1}.{kind}"] = values
        parent, _, leaf = stem.rpartition(".")
        owner = model.get_submodule(parent)
        if isinstance(getattr(owner, leaf), torch.nn.Linear):
            rank = state[stem + ".A.weight"].shape[1]
            whole = getattr(owner, leaf)
            setattr(owner, leaf, torch.nn.Sequential(
                torch.nn.Linear(whole.in_features, rank, bias=False),
                torch.nn.Linear(rank, whole.out_features, bias=whole.bias is not None)))  # fmt: skip
    return split


def read_state(directory):
    state = {}
    for file in sorted(pathlib.Path(directory).glob("*.safetensors")):
        state.update(load_file(file))
    return state


def load(directory, dtype=torch.float32, state=None):
    """The model of a directory, with factors, thin heads or neither; `state`: its tensors, where they are read."""
    config = transformers.AutoConfig.from_pretrained(directory)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    make_thin(model, getattr(config, "sedpa_thin_heads", None))
    state = split_projections(model, state or read_state(directory))
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict({name: values.to(dtype) for name, values in state.items()}, strict=True)
    return model.to(dtype).eval()


def logits_of(directory, tokens, dtype):
    with torch.no_grad():
        if dtype == torch.float64:
            state = read_state(directory)  # safetensors must know float32 for what it is
            with every_float_is_f64():
                return load(directory, dtype, state)(torch.tensor([tokens])).logits[0].numpy()
        return load(directory, dtype)(torch.tensor([tokens])).logits[0].double().numpy()


def make_twin(source, target, ranks):
    state = read_state(source)
    for layer, by_name in enumerate(ranks):
        for projection, rank in by_name.items():
            name = f"model.layers.{layer}.self_attn.{projection}_proj"
            whole = state.pop(name + ".weight")
            u, s, vt = np.linalg.svd(whole.double().numpy())
            factors = {"A": u[:, :rank] * s[:rank], "B": vt[:rank]}
            for factor, values in factors.items():
                tensor = torch.from_numpy(np.ascontiguousarray(values)).to(whole.dtype)
                state[f"{name}.{factor}.weight"] = tensor
    if target.exists():
        shutil.rmtree(target)
    target.mkdir()
    shutil.copy(source / "config.json", target)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})


def make_vectors(models):
    path = models / "cases.json"
    cases = {case["name"]: case for case in json.loads(path.read_text())}
    for name, ranks in VECTORS.items():
        twin = name + "-low-rank"
        make_twin(models / name, models / twin, ranks)
        tokens = cases[name]["tokens"]
        logits = logits_of(models / twin, tokens, torch.float64)
        error = float(np.abs(logits_of(models / twin, tokens, torch.float32) - logits).max())
        moved = np.abs(logits - logits_of(models / name, tokens, torch.float64)).max()
        assert moved > 0.05, f"{twin}: the factors move logits by {moved} only"
        logits.astype("<f4").tofile(models / f"{twin}.logits")
        cases[twin] = dict(name=twin, model=twin, logits=f"{twin}.logits", tokens=tokens,
                           vocabulary=logits.shape[1], f32_error=error)  # fmt: skip
        print(f"{twin:24} f32 error {error:.2e}, {moved:.2f} from the whole model")
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases.values()) + "\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=pathlib.Path)
    parser.add_argument("--ids", help="token ids, comma separated")
    parser.add_argument("--out")
    parser.add_argument("--vectors", type=pathlib.Path, metavar="MODELS")
    arguments = parser.parse_args()
    if arguments.vectors:
        return make_vectors(arguments.vectors)
    if not (arguments.directory and arguments.ids and arguments.out):
        parser.error("expected DIR, --ids and --out, or --vectors")
    tokens = [int(i) for i in arguments.ids.split(",")]
    logits = logits_of(arguments.directory, tokens, torch.float32)
    logits.astype("<f4").tofile(arguments.out)
    pathlib.Path(arguments.out + ".json").write_text(json.dumps(
        dict(model=arguments.directory.name, tokens=tokens, vocabulary=int(logits.shape[1]),
             log_probs=False)) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
