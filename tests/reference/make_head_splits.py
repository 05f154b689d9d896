#!/usr/bin/env python3
"""Golden head splits of the published attention patterns, from numpy.quantile.

    python3 tests/reference/make_head_splits.py > tests/data/attention/head_splits.json

For every pattern under attn_patterns/ and a sweep of sparsities s: how many heads stream, and the
FNV-1a hash of the mask `gate >= numpy.quantile(gates, s)` written as a string of 0 and 1, layer by
layer. s <= 0 streams none and s >= 1 all, as DuoAttention's own sparsify_attention_heads has it.
Cuts inside a group of gates within 1e-6 of each other are left out: there the reference adds
unseeded noise. Numbers whose product with n - 1 is whole only up to rounding are in the sweep.
"""
import json
import pathlib

import numpy

root = pathlib.Path(__file__).resolve().parents[2]


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return f"{value:016x}"


def main():
    cases = []
    for path in sorted(root.glob("attn_patterns/*/*/full_attention_heads.tsv")):
        gates = numpy.loadtxt(path, dtype=float, delimiter="\t")
        flat = numpy.sort(gates.ravel())
        n = flat.size
        sweep = {round(i / 100, 2) for i in range(101)} | {0.1 + 0.2, 1 / 3, 0.123456789}
        for k in (1, 7, n // 10, n // 3, n // 2, n - 8, n - 2):
            whole = k / (n - 1)
            sweep |= {whole, numpy.nextafter(whole, 0), numpy.nextafter(whole, 1)}
        for sparsity in sorted(float(s) for s in sweep):
            threshold = numpy.quantile(gates, sparsity)
            index = sparsity * (n - 1)
            cuts = {int(numpy.floor(index)), int(numpy.ceil(index))}
            cuts.add(int(numpy.sum(flat < threshold)))
            if any(0 < c < n and flat[c] - flat[c - 1] < 1e-6 for c in cuts):
                continue
            full = gates >= threshold
            if sparsity <= 0:
                full[:] = True
            if sparsity >= 1:
                full[:] = False
            mask = "".join("1" if keep else "0" for keep in full.ravel())
            cases.append(
                {
                    "pattern": str(path.parent.relative_to(root)),
                    "sparsity": sparsity,
                    "streaming": int(mask.count("0")),
                    "fnv1a": fnv1a(mask),
                }
            )
    print("[")
    print(",\n".join(json.dumps(case) for case in cases))
    print("]")


if __name__ == "__main__":
    main()
