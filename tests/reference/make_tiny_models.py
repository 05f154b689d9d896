#!/usr/bin/env python3
"""Makes the tiny models of tests/data/models and the logits that they must give.

Every supported family, random weights from fixed seeds, a few thousand numbers a matrix. The logits
come from Hugging Face transformers with every number in float64 (also where it says float32: RMS
norm, softmax, rotary angles). `f32_error` says how far transformers itself is from that when it
runs in float32: the yardstick for another float32 program.

GGUF twins are made by llama.cpp's own converter, so that names, keys and the order of Llama's query
and key rows are its, not ours.

    make_tiny_models.py OUT_DIR --llama-cpp PATH

Needs torch, transformers, safetensors, gguf and llama.cpp's sources; run by hand, its output is in
the tree.
"""
import argparse
import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

TOKENS = 64
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
from exact import every_float_is_f64  # noqa: E402

COMMON = dict(
    vocab_size=72, hidden_size=64, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
    rms_norm_eps=1e-5, tie_word_embeddings=False, use_cache=False,
    bos_token_id=1, eos_token_id=2)  # fmt: skip

# name: architecture, changes to COMMON, RoPE, element type, shards, a change of the configuration
# that must show in the logits (or the test would not see the feature).
MODELS = {
    # Grouped queries, a head size that is no multiple of 16, an output matrix of its own.
    "llama": dict(arch="Llama", config=dict(hidden_size=48), rope={}, dtype=torch.float32,
                  without=dict(rope=dict(rope_theta=20000.0))),
    # Llama 3.1's frequency ramp within 32 positions; tied; one KV head.
    "llama3": dict(arch="Llama", config=dict(tie_word_embeddings=True, num_key_value_heads=1,
                                             max_position_embeddings=256),
                   rope=dict(rope_theta=50000.0, rope_type="llama3", factor=8.0,
                             low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=32),
                   dtype=torch.float16, without=dict(rope=dict(rope_theta=50000.0)), gguf="f16"),
    # Positions divided by 4; biases also on the attention's output; three shards.
    "llama-linear": dict(arch="Llama", config=dict(attention_bias=True, hidden_size=48),
                         rope=dict(rope_type="linear", factor=4.0), dtype=torch.bfloat16, shards=3,
                         without=dict(rope={})),
    "llama-yarn": dict(arch="Llama", config=dict(max_position_embeddings=96),
                       rope=dict(rope_type="yarn", factor=4.0,
                                 original_max_position_embeddings=24),
                       dtype=torch.float16, without=dict(rope={}), gguf="f16"),
    # SmolLM2's proportions: three query heads for one KV head, tied, another RoPE base. Only as GGUF.
    "smollm2": dict(arch="Llama", config=dict(num_attention_heads=6, hidden_size=96,
                                              intermediate_size=64, tie_word_embeddings=True),
                    rope=dict(rope_theta=100000.0), dtype=torch.bfloat16,
                    without=dict(rope={}), gguf="q8_0", gguf_only=True),
    # Mistral 0.1: a sliding window, and heads that are wider than the model is.
    "mistral": dict(arch="Mistral", config=dict(sliding_window=24, head_dim=20, hidden_size=48),
                    rope={}, dtype=torch.bfloat16, without=dict(sliding_window=None)),
    "qwen2": dict(arch="Qwen2", config=dict(tie_word_embeddings=True, sliding_window=None),
                  rope=dict(rope_theta=1000000.0), dtype=torch.float16,
                  without=dict(rope={}), gguf="f16"),
    "qwen3": dict(arch="Qwen3", config=dict(head_dim=24, hidden_size=48, sliding_window=None,
                                            tie_word_embeddings=True),
                  rope=dict(rope_theta=1000000.0), dtype=torch.bfloat16, shards=2,
                  without=dict(rope={}), gguf="bf16"),
}  # fmt: skip

# Written as older checkpoints have it: rope_theta and rope_scaling. The others: rope_parameters.
OLD_STYLE = {"llama", "llama3", "llama-yarn", "mistral", "qwen3"}


def make_config(spec, **changes):
    arguments = {**COMMON, **spec["config"], **changes}
    rope = arguments.pop("rope", spec["rope"])
    rope = {"rope_type": "default", "rope_theta": 10000.0, **rope}
    config = getattr(transformers, spec["arch"] + "Config")(**arguments, rope_parameters=rope)
    config._attn_implementation = "eager"
    return config


def make_model(config):
    return getattr(transformers, config.architectures[0])(config).eval()


def random_weights(model, generator, dtype):
    """Sizes that make every part matter: attention neither flat nor of one key, logits of a few."""
    for name, parameter in model.named_parameters():
        shape = parameter.shape
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        if "norm" in name:
            values = 1 + 0.3 * values
        elif name.endswith("bias"):
            values = 0.5 * values
        elif "embed" in name:
            values = (0.2 if model.config.tie_word_embeddings else 0.7) * values
        else:
            gain = 1.6 if ("q_proj" in name or "k_proj" in name) else 1.0
            values = values * gain / shape[1] ** 0.5
        parameter.data = values.to(dtype).to(parameter.dtype)


def exact_logits(model, tokens):
    with torch.no_grad(), every_float_is_f64():
        fresh = type(model)(model.config).double().eval()  # rotary frequencies in f64 too
        fresh.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
        fresh.tie_weights()
        return fresh(torch.tensor([tokens])).logits[0].numpy()


def f32_logits(model, tokens):
    with torch.no_grad():
        return model.float()(torch.tensor([tokens])).logits[0].double().numpy()


def config_json(name, config):
    text = config.to_dict()
    for key in ("transformers_version", "_attn_implementation", "use_cache", "output_attentions",
                "output_hidden_states", "return_dict", "chunk_size_feed_forward", "problem_type",
                "id2label", "label2id", "is_encoder_decoder", "_name_or_path"):  # fmt: skip
        text.pop(key, None)
    if name in OLD_STYLE:
        rope = text.pop("rope_parameters")
        text["rope_theta"] = rope.pop("rope_theta")
        text["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return text


def save_model(model, config_text, directory, dtype, shards):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config_text, indent=1) + "\n")
    state = {k: v.detach().to(dtype).contiguous().clone() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    if shards == 1:
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(state)
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": {}}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {n: state[n] for n in names[shard::shards]}
        save_file(part, directory / file, metadata={"format": "pt"})
        index["weight_map"].update({n: file for n in part})
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def convert(directory, out, kind, llama_cpp):
    """llama.cpp's converter, but for the tokenizer, which these models do not have."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    kinds = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16,
             "bf16": gguf.LlamaFileType.MOSTLY_BF16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
    hparams = ModelBase.load_hparams(directory, False)
    model_class = get_model_class(get_model_architecture(hparams, ModelType.TEXT), mmproj=False)
    with torch.inference_mode():
        converter = model_class(directory, kinds[kind], out, model_name=out.stem)
        converter.set_vocab = lambda: converter.gguf_writer.add_tokenizer_model("no_vocab")
        converter.write()


def dequantised(model, gguf_path):
    """The model with a GGUF's numbers in place of its own."""
    from hf_logits import load_gguf_weights

    load_gguf_weights(model, str(gguf_path))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--llama-cpp", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)

    cases: list[dict] = []

    def add_case(name, path, tokens, model):
        logits = exact_logits(model, tokens)
        error = float(np.abs(f32_logits(model, tokens) - logits).max())
        logits.astype("<f4").tofile(out / f"{name}.logits")
        cases.append(dict(name=name, model=path, logits=f"{name}.logits", tokens=tokens,
                          vocabulary=logits.shape[1], f32_error=error))
        print(f"{name:14} largest logit {np.abs(logits).max():6.2f}, f32 error {error:.2e}")
        return logits

    for number, (name, spec) in enumerate(MODELS.items()):
        generator = torch.Generator().manual_seed(1000 + number)
        config = make_config(spec)
        config.architectures = [spec["arch"] + "ForCausalLM"]
        config.dtype = spec["dtype"]
        model = make_model(config)
        random_weights(model, generator, spec["dtype"])
        tokens = torch.randint(0, config.vocab_size, (TOKENS,), generator=generator).tolist()
        save_model(model, config_json(name, config), out / name, spec["dtype"],
                   spec.get("shards", 1))
        logits = add_case(name, name, tokens, model)

        # The feature must show, and what was written must say the same as what was made.
        plain_config = make_config(spec, **spec["without"])
        plain_config.architectures = config.architectures
        plain = make_model(plain_config)
        plain.load_state_dict(model.state_dict())
        difference = np.abs(exact_logits(plain, tokens) - logits).max()
        assert difference > 0.05, f"{name}: the feature moves logits by {difference} only"
        again = transformers.AutoModelForCausalLM.from_pretrained(
            out / name, dtype=torch.float32, attn_implementation="eager")
        assert np.abs(exact_logits(again, tokens) - logits).max() < 1e-9, name

        if "gguf" in spec:
            gguf_name = f"{name}-{spec['gguf']}"
            gguf_path = out / f"{gguf_name}.gguf"
            with tempfile.TemporaryDirectory() as directory:
                # The converter reads numbers as they were stored.
                copy = pathlib.Path(directory) / name
                shutil.copytree(out / name, copy)
                convert(copy, gguf_path, spec["gguf"], arguments.llama_cpp)
            twin = dequantised(make_model(config), gguf_path)
            twin_logits = add_case(gguf_name, f"{gguf_name}.gguf", tokens, twin)
            if spec["gguf"] != "q8_0":
                assert np.abs(twin_logits - logits).max() < 1e-9, gguf_name
                (out / f"{gguf_name}.logits").unlink()
                cases[-1]["logits"] = f"{name}.logits"
        if spec.get("gguf_only"):
            shutil.rmtree(out / name)
            (out / f"{name}.logits").unlink()
            cases = [case for case in cases if case["name"] != name]
    (out / "cases.json").write_text(
        "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
