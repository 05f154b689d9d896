"""Each function draws one figure and returns it."""
import matplotlib

matplotlib.use("Agg")  # files only: there may be no screen

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from sedpa_plots.ranks import spearman  # noqa: E402

INCHES_PER_CELL = 0.22
MARGIN = 1.6  # inches, for labels


def _heat_map(axes, table, label=None, lowest=0.0, highest=None):
    image = axes.imshow(table, aspect="auto", cmap="viridis", vmin=lowest, vmax=highest,
                        interpolation="nearest")
    if label is not None:
        axes.figure.colorbar(image, ax=axes, label=label)


def _heads_axes(axes, table, title):
    axes.set_title(title)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    for axis, count in ((axes.xaxis, table.shape[1]), (axes.yaxis, table.shape[0])):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=min(count, 12)))


def _figure(columns, rows, panels=1):
    width = panels * (MARGIN + max(columns * INCHES_PER_CELL, 2.4))
    return plt.subplots(1, panels, squeeze=False, constrained_layout=True,
                        figsize=(width, MARGIN + max(rows * INCHES_PER_CELL, 2.4)))


def heads(table, title):
    """Layers x heads, bright where the number is high."""
    figure, axes = _figure(table.shape[1], table.shape[0])
    _heat_map(axes[0, 0], table, "gate or score", min(0.0, table.min()))
    _heads_axes(axes[0, 0], table, title)
    return figure


def compare(first, second, titles):
    """Two tables of the same heads side by side, and each head's place in both orders."""
    if first.shape != second.shape:
        raise ValueError(f"{titles[0]} has {first.shape[0]} x {first.shape[1]} heads, "
                         f"{titles[1]} {second.shape[0]} x {second.shape[1]}")
    figure, axes = _figure(first.shape[1], first.shape[0], panels=3)
    for table, title, panel in zip((first, second), titles, axes[0]):
        _heat_map(panel, table, "gate or score", min(0.0, table.min()))
        _heads_axes(panel, table, title)
    panel = axes[0, 2]
    panel.scatter(first.ravel(), second.ravel(), s=12, alpha=0.7)
    panel.set_xlabel(titles[0])
    panel.set_ylabel(titles[1])
    panel.set_title(f"Spearman's rank correlation {spearman(first, second):.2f}")
    return figure


def masking_curves(cases):
    """[(mask, [(masked heads, mean score, lowest, highest)])]: the sets of one kind and size are
    averaged, and every curve begins with what was found when nothing was masked."""
    sets = {}
    for case in cases:
        key = (case.get("mask"), case.get("masked"), case.get("mask_seed"))
        sets.setdefault(key, []).append(case["score"])
    means = {key: float(np.mean(scores)) for key, scores in sets.items()}
    start = [mean for (mask, _, _), mean in means.items() if mask == "none"]
    curves = []
    for mask in ("top", "random", "bottom"):
        counts = sorted({masked for kind, masked, _ in means if kind == mask})
        points = [(0, start[0], start[0], start[0])] if start else []
        for count in counts:
            found = [mean for (kind, masked, _), mean in means.items()
                     if kind == mask and masked == count]
            points.append((count, float(np.mean(found)), min(found), max(found)))
        if counts:
            curves.append((mask, points))
    return curves


def masking(cases, title):
    """Score over the number of masked heads, with the range of the random sets."""
    figure, axes = plt.subplots(constrained_layout=True, figsize=(6, 4))
    colours = {"top": "tab:red", "random": "tab:grey", "bottom": "tab:blue"}
    for mask, points in masking_curves(cases):
        counts, means, lowest, highest = zip(*points)
        axes.plot(counts, means, marker="o", color=colours[mask], label=f"{mask} heads masked")
        axes.fill_between(counts, lowest, highest, color=colours[mask], alpha=0.15)
    axes.set(title=title, xlabel="masked heads", ylabel="score", ylim=(-0.03, 1.03))
    axes.legend()
    return figure


def needle_grid(cases):
    """(lengths, depths, scores [depths, lengths]): the mean over samples, nan where there is none."""
    lengths = sorted({case["prompt_tokens"] for case in cases})
    depths = sorted({case["depth"] for case in cases})
    sums = np.zeros((len(depths), len(lengths)))
    counts = np.zeros_like(sums)
    for case in cases:
        place = depths.index(case["depth"]), lengths.index(case["prompt_tokens"])
        sums[place] += case["score"]
        counts[place] += 1
    scores = np.full_like(sums, np.nan)
    np.divide(sums, counts, out=scores, where=counts > 0)
    return lengths, depths, scores


def needles(cases, title):
    """Lengths x depths, with every score written in its cell."""
    lengths, depths, scores = needle_grid(cases)
    figure, axes = plt.subplots(constrained_layout=True, figsize=(
        MARGIN + max(0.6 * len(lengths), 3), MARGIN + max(0.35 * len(depths), 2)))
    _heat_map(axes, scores, "score", 0.0, 1.0)
    axes.set(title=title, xlabel="tokens", ylabel="depth of the needle")
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], rotation=45)
    axes.set_yticks(range(len(depths)), [f"{depth:.2f}" for depth in depths])
    for (row, column), score in np.ndenumerate(scores):
        if np.isfinite(score):
            axes.text(column, row, f"{score:.2f}", ha="center", va="center",
                      color="black" if score > 0.6 else "white", fontsize=8)
    return figure


def name_of_run(run):
    """What its heads were chosen by, or nothing when all of them keep everything."""
    if run["pattern"] is None or run["sparsity"] == 0:
        return None
    if run["shuffled"] is not None:
        return "random"
    return "reversed" if run["reversed"] else run["pattern"].rstrip("/").rsplit("/", 1)[-1]


def test_of_run(run, cases):
    """(tokens, what was asked)"""
    needles = run.get("needles", 1)  # of niah only, as the chat template is
    name = run["test"] if needles == 1 else f"{needles} needles"
    chat = ", chat template" if run.get("chat_template") else ""
    return max(case["prompt_tokens"] for case in cases), name + chat


def sparsity_curves(runs):
    """{(tokens, test): {heads: [(sparsity, mean score, lowest, highest)]}}: runs of one kind are
    averaged; each curve begins with what full attention found, where it was asked."""
    scores = {}
    for run, cases in runs:
        of_test = scores.setdefault(test_of_run(run, cases), {})
        heads = name_of_run(run)
        sparsity = run["sparsity"] if heads is not None else 0.0
        of_test.setdefault(heads, {}).setdefault(sparsity, []).append(run["score"])
    curves = {}
    for test, of_test in sorted(scores.items()):
        start = of_test.pop(None, {})
        curves[test] = {heads: [(sparsity, float(np.mean(found)), min(found), max(found))
                                for sparsity, found in sorted({**start, **points}.items())]
                        for heads, points in of_test.items()}
    return curves


def sparsity(runs, title):
    """Score over sparsity, a panel for each test, with the range of the random patterns."""
    curves = sparsity_curves(runs)
    columns = min(len(curves), 4)
    rows = -(-len(curves) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.6 * columns, 3 * rows), sharey=True,
                                squeeze=False, constrained_layout=True)
    names = sorted({heads for of_test in curves.values() for heads in of_test})
    colours = {name: f"C{i % 10}" for i, name in enumerate(names)}
    for axes in grid.flat[len(curves):]:
        axes.set_visible(False)
    for axes, ((tokens, test), of_test) in zip(grid.flat, curves.items()):
        for heads, points in sorted(of_test.items()):
            at, means, lowest, highest = zip(*points)
            axes.plot(at, means, marker="o", markersize=3, color=colours[heads], label=heads)
            axes.fill_between(at, lowest, highest, color=colours[heads], alpha=0.15)
        axes.set(title=f"{test}, {tokens:,} tokens", xlabel="sparsity", ylim=(-0.03, 1.03))
        axes.title.set_fontsize(9)
    for axes in grid[:, 0]:
        axes.set_ylabel("score")
    grid[0, 0].legend(fontsize=7)
    figure.suptitle(title)
    return figure


LOSSES = {"kl": ("KL divergence from the model as it is", lambda line, first: line["kl_divergence"]),
          "perplexity": ("share by which perplexity grows",
                         lambda line, first: line["perplexity"] / first["perplexity"] - 1),
          "passkey": ("passkeys lost", lambda line, first: first["passkey"] - line["passkey"]),
          "niah": ("needles lost", lambda line, first: first["niah"] - line["niah"])}
COSTS = {"decode_bytes": ("MB that a step reads", lambda line: line["decode_bytes_per_token"] / 1e6),
         "decode": ("ms a token written",
                    lambda line: 1e3 * line["decode_seconds"] / line["generated_tokens"]),
         "prefill": ("ms a token read",
                     lambda line: 1e3 * line["prefill_seconds"] / line["prompt_tokens"]),
         "kv": ("MB of KV cache", lambda line: line["kv_bytes"] / 1e6),
         "parameters": ("million parameters", lambda line: line["parameters"] / 1e6)}


def unbeaten(points):
    """Indices of the (cost, loss) pairs that no other is at least as good as in both and better
    than in one, by ascending cost."""
    def beaten(point):
        return any(cost <= point[0] and loss <= point[1] and (cost, loss) != point
                   for cost, loss in points)
    return sorted((i for i, point in enumerate(points) if not beaten(point)),
                  key=lambda i: points[i])


def name_of_setting(line):
    parts = []
    if line["sparsity"]:
        parts.append(f"s {line['sparsity']:g}")
    if line["retrieval_window"]:
        parts.append("W " + ",".join(map(str, line["retrieval_window"])))
    return " ".join(parts) or "full"


def frontier(settings, title, loss="kl", cost="decode_bytes"):
    """Loss over cost: a colour for each model, a line through the settings that none beats."""
    loss_label, loss_of = LOSSES[loss]
    cost_label, cost_of = COSTS[cost]
    points = [(cost_of(line), loss_of(line, settings[0])) for line in settings]
    figure, axes = plt.subplots(constrained_layout=True, figsize=(7, 5))
    best = [points[i] for i in unbeaten(points)]
    axes.plot(*zip(*best), color="tab:grey", linestyle="--", label="none is better")
    models = list(dict.fromkeys(line["model"] for line in settings))
    for model in models:
        own = [i for i, line in enumerate(settings) if line["model"] == model]
        axes.scatter(*zip(*(points[i] for i in own)), label=model.rsplit("/", 1)[-1])
    for point, line in zip(points, settings):
        axes.annotate(name_of_setting(line), point, textcoords="offset points", xytext=(4, 4),
                      fontsize=7)
    axes.set(title=title, xlabel=cost_label, ylabel=loss_label)
    axes.legend(fontsize=8)
    return figure
