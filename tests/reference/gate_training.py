#!/usr/bin/env python3
"""Ten steps of gate training in PyTorch, written from the paper (DuoAttention, arXiv 2410.10819,
section 2.2): its own forward, its own streaming mask, autograd, torch's AdamW.

    gate_training.py [--out tests/data/gates/ten_steps.json]

Two streams of a Llama in float64. In every layer the teacher has full attention; each KV head of
the student is gate * teacher's output (detached) + (1 - gate) * its own attention under the
streaming mask. Loss: the mean squared difference of the last hidden states (after the output norm)
at the counted rows, plus reg * mean |gate|. Writes the documents, and the loss and the gates of
every step: tests/identify/gate_training_test.cc makes the same ones. Needs torch and safetensors.
"""
import argparse
import json
import math
import pathlib
import random

import safetensors.torch
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/data/models/llama"
STEPS, RATE, REG = 10, 0.02, 0.05
SINK, RECENT = 3, 8
TOKENS, SEED = 96, 20


class Llama:
    def __init__(self, directory):
        self.config = json.loads((directory / "config.json").read_text())
        weights = safetensors.torch.load_file(directory / "model.safetensors")
        self.weights = {name: w.double() for name, w in weights.items()}

    def __getitem__(self, name):
        return self.weights["model." + name + ".weight"]

    def layer(self, i, name):
        return self[f"layers.{i}.{name}"]

    def norm(self, x, weight):
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]) * weight

    def rotate(self, x):
        """x [heads, tokens, dim]: pairs (i, i + dim / 2) turn by position * base^(-2i / dim)."""
        dim = x.shape[-1]
        frequency = self.config["rope_theta"] ** (-torch.arange(0, dim, 2).double() / dim)
        angle = torch.arange(x.shape[1]).double()[:, None] * frequency
        a, b = x[..., :dim // 2], x[..., dim // 2:]
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    def attend(self, i, x, mask):
        """Outputs [query heads, tokens, dim] of attention in layer i, under a mask of what is seen."""
        c = self.config
        dim = c["head_dim"]
        h = self.norm(x, self.layer(i, "input_layernorm"))

        def heads(name):
            return (h @ self.layer(i, "self_attn." + name).T).unflatten(-1, (-1, dim)).transpose(0, 1)

        group = c["num_attention_heads"] // c["num_key_value_heads"]
        q, k = self.rotate(heads("q_proj")), self.rotate(heads("k_proj"))
        k, v = (t.repeat_interleave(group, 0) for t in (k, heads("v_proj")))
        scores = (q @ k.transpose(1, 2) / math.sqrt(dim)).masked_fill(~mask, -math.inf)
        return scores.softmax(-1) @ v

    def finish(self, i, x, o):
        """The rest of layer i behind attention outputs o [query heads, tokens, dim]."""
        x = x + o.transpose(0, 1).flatten(1) @ self.layer(i, "self_attn.o_proj").T
        h = self.norm(x, self.layer(i, "post_attention_layernorm"))
        gate, up = (h @ self.layer(i, "mlp." + name).T for name in ("gate_proj", "up_proj"))
        return x + (torch.nn.functional.silu(gate) * up) @ self.layer(i, "mlp.down_proj").T

    def hidden(self, x, rows):
        return self.norm(x[rows], self["norm"])


def masks(tokens):
    query, key = torch.arange(tokens)[:, None], torch.arange(tokens)[None]
    causal = key <= query
    return causal, causal & ((key < SINK) | (query - key < RECENT))


def distillation_loss(model, tokens, rows, gates):
    full, streaming = masks(len(tokens))
    teacher = student = model["embed_tokens"][tokens]
    group = model.config["num_attention_heads"] // model.config["num_key_value_heads"]
    for i in range(model.config["num_hidden_layers"]):
        constant = model.attend(i, teacher, full).detach()
        teacher = model.finish(i, teacher, constant)
        gate = gates[i].repeat_interleave(group)[:, None, None]
        mixed = gate * constant + (1 - gate) * model.attend(i, student, streaming)
        student = model.finish(i, student, mixed)
    return (model.hidden(student, rows) - model.hidden(teacher, rows).detach()).pow(2).mean()


def rate_share(step):
    fifth = STEPS // 5
    return min(1, max((step + 1) / fifth, 0.1), max((STEPS - step) / fifth, 0.1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/gates/ten_steps.json")
    arguments = parser.parse_args()
    model = Llama(MODEL)
    layers, heads = (model.config[k] for k in ("num_hidden_layers", "num_key_value_heads"))
    gates = torch.nn.Parameter(torch.ones(layers, heads, dtype=torch.float64))
    optimizer = torch.optim.AdamW([gates], lr=RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_share)
    choose = random.Random(SEED)
    steps = []
    for _ in range(STEPS):
        tokens = [choose.randrange(model.config["vocab_size"]) for _ in range(TOKENS)]
        first = choose.randrange(60, 70)
        rows = list(range(first, first + 8)) + list(range(first + 12, first + 20))
        optimizer.zero_grad()
        loss = distillation_loss(model, torch.tensor(tokens), torch.tensor(rows), gates)
        (loss + REG * gates.abs().mean()).backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            gates.clamp_(0, 1)
        steps.append({"tokens": tokens, "rows": rows, "loss": loss.item(),
                      "gates": gates.detach().flatten().tolist()})
    result = {"made_by": "tests/reference/gate_training.py, torch " + torch.__version__,
              "model": "llama", "steps": STEPS, "learning_rate": RATE, "regularization": REG,
              "sink": SINK, "recent": RECENT, "documents": steps}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result) + "\n")
    for step in steps:
        print(f"{step['loss']:.6g}", [round(g, 4) for g in step["gates"]])


if __name__ == "__main__":
    main()
