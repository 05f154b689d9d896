"""Reads what sedpa writes. Every failure is a FileError that names the file and what is wrong."""
import json
import pathlib

import numpy as np


class FileError(Exception):
    """One line for people."""


def read_heads(path):
    """A number for each head: [layers, heads], from a pattern's directory (its gates) or a table."""
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / "full_attention_heads.tsv"
    try:
        rows = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
        table = np.array([[float(field) for field in row] for row in rows])
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise FileError(f"{path}: not a table of numbers for heads: {error}") from error
    if table.ndim != 2 or not np.isfinite(table).all():
        raise FileError(f"{path}: not a table of numbers for heads")
    return table


def read_lines(path):
    """The objects of a JSON lines file. A last line that was not finished is left out."""
    try:
        lines = pathlib.Path(path).read_text().splitlines(keepends=True)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    objects = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            objects.append(json.loads(line))
        except ValueError as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise FileError(f"{path}: line {number}: {error}") from error
    return objects


def read_cases(path):
    """The lines of single cases, those of `sedpa eval passkey`, `niah` and `masking`."""
    cases = [line for line in read_lines(path)
             if isinstance(line, dict) and {"prompt_tokens", "depth", "score"} <= line.keys()]
    if not cases:
        raise FileError(f"{path}: no results of a needle test in it")
    return cases


def files_in(path):
    """The JSON lines files of a folder, by name; any other path is a file."""
    path = pathlib.Path(path)
    return sorted(path.glob("*.jsonl")) if path.is_dir() else [path]


def read_run(path):
    """(the run, its cases): the last line of `sedpa eval passkey` or `niah`, which says how it was
    run and what it found."""
    runs = [line for line in read_lines(path)
            if isinstance(line, dict) and {"test", "sparsity", "pattern", "score"} <= line.keys()]
    if not runs:
        raise FileError(f"{path}: no finished needle test in it")
    return runs[-1], read_cases(path)


def read_settings(path):
    """The lines of `sedpa eval frontier`, one a setting; the reference first."""
    settings = [line for line in read_lines(path)
                if isinstance(line, dict) and {"kl_divergence", "kv_bytes", "decode_seconds"}
                <= line.keys()]
    if not settings:
        raise FileError(f"{path}: no results of eval frontier in it")
    return settings
