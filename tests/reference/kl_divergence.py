#!/usr/bin/env python3
"""Mean KL divergence between two files of logits, row by row: a second implementation of what
`sedpa eval perplexity --against` prints, and the way to hold llama.cpp itself to transformers.

    kl_divergence.py REFERENCE OTHER

Each is a file of llama.cpp's `llama-perplexity --kl-divergence-base`, of sedpa's `--save-logits`, or
float32 logits of hf_logits.py (with FILE.json beside it). Rows are compared where both have them and
the tokens up to there are the same; of several chunks the first is taken when the other has one.
"""
import json
import pathlib
import struct
import sys

import numpy as np


class Logits:
    """Log-probabilities of the first chunk of a file, a row at a time."""

    def __init__(self, path):
        self.data = np.memmap(path, dtype=np.uint8, mode="r")
        self.floats = bytes(self.data[:8]) != b"_logits_"
        if self.floats:
            side = json.loads(pathlib.Path(path + ".json").read_text())
            self.tokens, self.vocabulary = side["tokens"], side["vocabulary"]
            self.first, self.end = 0, len(self.tokens)
            self.start, self.row_bytes = 0, 4 * self.vocabulary
        else:
            context, self.vocabulary, chunks = struct.unpack("<Iii", bytes(self.data[8:20]))
            self.tokens = self.data[20 : 20 + 4 * context].view("<i4").tolist()
            self.first, self.end = context // 2, context - 1
            self.start = 20 + 4 * context * chunks
            self.row_bytes = 2 * (self.vocabulary + self.vocabulary % 2 + 4)

    def row(self, position):
        """float64 log-probabilities; -inf where the file has cut them off."""
        at = self.start + (position - self.first) * self.row_bytes
        raw = self.data[at : at + self.row_bytes]
        if self.floats:
            values = raw.view("<f4").astype(np.float64)
            return values - values.max() - np.log(np.exp(values - values.max()).sum())
        scale, lowest = raw[:8].view("<f4").astype(np.float64)
        codes = raw[8:].view("<u2")[: self.vocabulary]
        values = lowest + scale * codes
        if scale * 65535 > 15.99:
            values[codes == 0] = -np.inf
        return values


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    reference, other = Logits(sys.argv[1]), Logits(sys.argv[2])
    end = min(reference.end, other.end)
    if reference.tokens[:end] != other.tokens[:end] or reference.vocabulary != other.vocabulary:
        sys.exit("the files are not of the same tokens")
    divergences, same = [], 0
    for position in range(max(reference.first, other.first), end):
        p, q = reference.row(position), other.row(position)
        both = np.isfinite(p) & np.isfinite(q)
        divergences.append((np.exp(p[both]) * (p[both] - q[both])).sum())
        same += p[q.argmax()] == p.max()
    print(f"{len(divergences)} rows, mean KL divergence {np.mean(divergences):.3g} "
          f"(largest {np.max(divergences):.3g}), same top token {100 * same / len(divergences):.2f} %")


if __name__ == "__main__":
    main()
