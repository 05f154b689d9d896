"""Orders and how they agree."""
import numpy as np


def ranks(numbers):
    """Ranks from 1; equal numbers get the mean of theirs."""
    numbers = np.asarray(numbers, dtype=float).ravel()
    _, group, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group.ravel()]


def spearman(a, b):
    """Spearman's rank correlation; nan when all numbers of one are equal."""
    a, b = ranks(a), ranks(b)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} numbers and {b.size}")
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else float("nan")
