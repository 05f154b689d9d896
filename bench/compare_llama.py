#!/usr/bin/env python3
"""Speed beside llama.cpp, on the same files and threads.

    bench/compare_llama.py --llama-bench PATH --sedpa build/release/cli/sedpa FILE.gguf...

The two programs take turns (A B A B ...), so that a change of the machine's clock or load meets
both: one turn measures, for one file, prefill of --prompt tokens and decode of --gen tokens at each
depth, flash attention on and the KV cache in f16. Standard output gets one JSON object for each
file, test and depth: the medians of both programs in tokens a second, the ratio sedpa/llama.cpp of
each turn, and the median of these ratios. Standard error gets progress and, at the end, a table.
bench/README.md says how to build llama-bench and how to make the files.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys


def run(command):
    """The standard output of `command`; ends the program with its last words when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{tail}")
    return done.stdout


def llama_turn(options, model):
    """{(test, depth): tokens a second} of one llama-bench run."""
    out = run([options.llama_bench, "-m", model, "-t", options.threads, "-fa", "on", "-r", "1",
               "-p", options.prompt, "-n", options.gen, "-d", options.depths,
               "-ctk", "f16", "-ctv", "f16", "-o", "json"])
    rates = {}
    for row in json.loads(out):
        test = "prefill" if row["n_prompt"] else "decode"
        rates[test, row["n_depth"]] = row["avg_ts"]
    return rates


def sedpa_turn(options, model):
    """The same of one `sedpa bench` run."""
    out = run([options.sedpa, "bench", "-m", model, "--threads", options.threads,
               "--prompt", options.prompt, "--gen", options.gen, "--depth", options.depths,
               "--kv", "f16", "--repeat", "1", "--json"])
    rates = {}
    for line in out.splitlines():
        row = json.loads(line)
        if "depth" not in row:
            continue
        for test in ("prefill", "decode"):
            rates[test, row["depth"]] = row[f"{test}_tokens_per_second"]
    return rates


def compare(options, model):
    turns = []
    for turn in range(options.turns):
        theirs, ours = llama_turn(options, model), sedpa_turn(options, model)
        missing = sorted(set(theirs) ^ set(ours))
        if missing:
            sys.exit(f"{model}: measured by one program only: {missing}")
        turns.append((theirs, ours))
        print(f"{model.name}: turn {turn + 1} of {options.turns}", file=sys.stderr, flush=True)
    rows = []
    for test, depth in sorted(turns[0][0], key=lambda key: (key[1], key[0] != "prefill")):
        key = (test, depth)
        ratios = [ours[key] / theirs[key] for theirs, ours in turns]
        rows.append({
            "model": model.name, "test": test, "depth": depth, "threads": int(options.threads),
            "turns": len(turns),
            "llama_tokens_per_second": round(statistics.median(t[key] for t, _ in turns), 2),
            "sedpa_tokens_per_second": round(statistics.median(o[key] for _, o in turns), 2),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        })
    return rows


def table(rows):
    lines = ["| file | test | depth | llama.cpp, tokens/s | sedpa, tokens/s | ratio (lowest to highest) |",
             "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['test']} | {row['depth']} "
            f"| {row['llama_tokens_per_second']:.1f} | {row['sedpa_tokens_per_second']:.1f} "
            f"| {row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f}) |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="+", type=pathlib.Path, help="GGUF files")
    parser.add_argument("--llama-bench", required=True, help="llama.cpp's llama-bench")
    parser.add_argument("--sedpa", required=True, help="the sedpa program")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--prompt", default="512", help="tokens of the prefill test")
    parser.add_argument("--gen", default="64", help="tokens of the decode test")
    parser.add_argument("--depths", default="0,4096", help="tokens in the cache before the test")
    parser.add_argument("--turns", type=int, default=5, help="runs of each program on each file")
    options = parser.parse_args()
    if options.turns < 1:
        parser.error("--turns must be at least 1")
    for path in [options.llama_bench, options.sedpa, *options.models]:
        if not os.path.exists(path):
            parser.error(f"no such file: {path}")
    rows = []
    for model in options.models:
        for row in compare(options, model):
            print(json.dumps(row), flush=True)
            rows.append(row)
    print(table(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
