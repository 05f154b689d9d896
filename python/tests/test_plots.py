"""Numbers against hand-computed ones and SciPy's, and that every picture is drawn."""
import contextlib
import io
import json
import math
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from sedpa_plots import figures  # noqa: E402
from sedpa_plots.__main__ import main  # noqa: E402
from sedpa_plots.files import FileError, read_cases, read_heads, read_lines  # noqa: E402
from sedpa_plots.ranks import ranks, spearman  # noqa: E402


class Ranks(unittest.TestCase):
    def test_ties_share_their_ranks(self):
        self.assertEqual(list(ranks([10, 30, 20, 20])), [1, 4, 2.5, 2.5])
        self.assertEqual(list(ranks([7, 7, 7])), [2, 2, 2])

    def test_spearman(self):
        # scipy.stats.spearmanr
        self.assertAlmostEqual(spearman([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]), 0.8207826816681233)
        self.assertAlmostEqual(spearman([1, 2, 2, 3, 0, 0], [3, 1, 2, 2, 0, 1]), 0.5)
        self.assertAlmostEqual(spearman([1, 2, 3], [0.1, 10, 1e9]), 1)
        self.assertAlmostEqual(spearman([[1, 2], [3, 4]], [[8, 6], [4, 2]]), -1)
        self.assertTrue(math.isnan(spearman([1, 1, 1], [1, 2, 3])))
        with self.assertRaises(ValueError):
            spearman([1, 2], [1, 2, 3])


def masked(mask, count, seed, score):
    return {"mask": mask, "masked": count, "mask_seed": seed, "prompt_tokens": 4000, "depth": 0.5,
            "sample": 0, "score": score}


CASES = [masked("none", 0, None, 1.0), masked("none", 0, None, 0.5), masked("top", 10, None, 0.25),
         masked("random", 10, 1, 0.5), masked("random", 10, 2, 1.0), masked("top", 5, None, 0.5),
         masked("bottom", 10, None, 0.75)]


def setting(model, kl, read, window=None):
    return {"model": model, "sparsity": 0.5, "retrieval_window": window, "kl_divergence": kl,
            "perplexity": 20 * (1 + kl), "passkey": 1.0, "niah": None, "parameters": 10 ** 6,
            "kv_bytes": read // 2, "decode_bytes_per_token": read, "generated_tokens": 4,
            "decode_seconds": 0.1, "prompt_tokens": 8, "prefill_seconds": 0.1}


SETTINGS = [setting("a/full.gguf", 0.0, 900), setting("a/full.gguf", 0.1, 700, [4, 8, 32]),
            setting("a/small.gguf", 0.2, 800), setting("a/small.gguf", 0.3, 600, [4, 8, 32])]


def run(score, sparsity=0.0, pattern=None, shuffled=None, reverse=False):
    return {"test": "niah", "needles": 1, "chat_template": False, "pattern": pattern,
            "sparsity": sparsity, "shuffled": shuffled, "reversed": reverse, "score": score}


RUNS = [run(1.0), run(0.75, 0.5, "dir/gates/"), run(0.5, 0.5, "dir/gates/", shuffled=1),
        run(0.25, 0.5, "dir/gates/", shuffled=2), run(0.1, 0.9, "dir/gates/", reverse=True)]


class Numbers(unittest.TestCase):
    def test_unbeaten_settings_lose_less_or_cost_less_than_any_other(self):
        points = [(9, 0), (7, 1), (8, 2), (6, 3), (6, 3), (9, 1)]
        self.assertEqual(figures.unbeaten(points), [3, 4, 1, 0])
        self.assertEqual(figures.unbeaten([(1, 1)]), [0])

    def test_masking_curves_begin_unmasked_and_average_random_sets(self):
        curves = dict(figures.masking_curves(CASES))
        self.assertEqual(list(curves), ["top", "random", "bottom"])
        start = (0, 0.75, 0.75, 0.75)
        self.assertEqual(curves["top"], [start, (5, 0.5, 0.5, 0.5), (10, 0.25, 0.25, 0.25)])
        self.assertEqual(curves["random"], [start, (10, 0.75, 0.5, 1.0)])

    def test_sparsity_curves_begin_full_and_average_random_patterns(self):
        cases = [{"prompt_tokens": 3990, "depth": 0, "score": 1},
                 {"prompt_tokens": 4000, "depth": 1, "score": 1}]
        [(test, curves)] = figures.sparsity_curves([(one, cases) for one in RUNS]).items()
        self.assertEqual(test, (4000, "niah"))
        start = (0.0, 1.0, 1.0, 1.0)
        self.assertEqual(curves, {"gates": [start, (0.5, 0.75, 0.75, 0.75)],
                                  "random": [start, (0.5, 0.375, 0.25, 0.5)],
                                  "reversed": [start, (0.9, 0.1, 0.1, 0.1)]})

    def test_needle_grid_averages_samples(self):
        cases = [{"prompt_tokens": length, "depth": depth, "score": score}
                 for length, depth, score in
                 [(4000, 0.0, 1), (4000, 0.0, 0), (1000, 1.0, 0.25)]]
        lengths, depths, scores = figures.needle_grid(cases)
        self.assertEqual((lengths, depths), ([1000, 4000], [0.0, 1.0]))
        self.assertEqual(scores[0, 1], 0.5)
        self.assertEqual(scores[1, 0], 0.25)
        self.assertTrue(math.isnan(scores[0, 0]))


class Pictures(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name, gates in (("a", "0.1\t0.9\n0.5\t0.2\n"), ("b", "0\t1\n0.4\t0.3\n")):
            (self.folder / name).mkdir()
            (self.folder / name / "full_attention_heads.tsv").write_text(gates)
        self.put("mask.jsonl", [{"settings": {}}, *CASES, {"cases": 2, "score": 0.3}])
        (self.folder / "table").mkdir()
        for i, one in enumerate(RUNS):
            self.put(f"table/{i}.jsonl", [{"settings": {}}, CASES[0], one])
        self.put("frontier.jsonl", [{"settings": {}}, *SETTINGS, {"pareto": [], "loss": "kl"}])

    def put(self, name, objects):
        path = self.folder / name
        path.write_text("".join(json.dumps(line) + "\n" for line in objects))
        return path

    def path(self, name):
        return str(self.folder / name)

    def test_every_picture_is_written(self):
        for picture, files, suffix in (("heads", ["a"], "png"), ("compare", ["a", "b"], "svg"),
                                       ("masking", ["mask.jsonl"], "png"),
                                       ("needles", ["mask.jsonl"], "pdf"),
                                       ("sparsity", ["table"], "png"),
                                       ("frontier", ["frontier.jsonl"], "png")):
            out = self.folder / f"{picture}.{suffix}"
            files = [self.path(file) for file in files]
            self.assertEqual(main([picture, *files, "-o", str(out)]), 0, picture)
            self.assertGreater(out.stat().st_size, 1000)

    def test_a_frontier_of_every_loss_and_cost(self):
        for loss in ("kl", "perplexity", "passkey"):
            for cost in figures.COSTS:
                figures.plt.close(figures.frontier(SETTINGS, "title", loss, cost))

    def test_the_shipped_patterns_are_read(self):
        shipped = pathlib.Path(__file__).resolve().parents[2] / "attn_patterns"
        self.assertEqual(read_heads(shipped / "SmolLM2-135M-Instruct-32K").shape, (30, 3))

    def refused(self, arguments, *parts):
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            self.assertEqual(main([*arguments, "-o", self.path("none.png")]), 1)
        self.assertEqual(error.getvalue().count("\n"), 1)
        for part in parts:
            self.assertIn(part, error.getvalue())
        self.assertFalse((self.folder / "none.png").exists())

    def test_bad_files_are_named(self):
        (self.folder / "bad.tsv").write_text("1\t2\n3\n")
        (self.folder / "words.tsv").write_text("one\n")
        (self.folder / "c").mkdir()
        (self.folder / "c" / "full_attention_heads.tsv").write_text("1\t2\t3\n")
        self.refused(["heads", self.path("bad.tsv")], "bad.tsv")
        self.refused(["heads", self.path("words.tsv")], "words.tsv", "one")
        self.refused(["heads", self.path("missing")], "missing", "No such file")
        self.refused(["compare", self.path("a"), self.path("c")], "2 x 2", "1 x 3")
        plain = self.put("plain.jsonl", [{"prompt_tokens": 1, "depth": 0, "score": 1}])
        self.refused(["masking", str(plain)], "plain.jsonl", "masked")
        empty = str(self.put("empty.jsonl", [{"settings": {}}]))
        self.refused(["needles", empty], "empty.jsonl")
        self.refused(["frontier", empty], "empty.jsonl", "frontier")
        self.refused(["sparsity", empty], "empty.jsonl", "finished")
        self.refused(["sparsity", self.path("a")], "a: no JSON lines")
        self.refused(["frontier", self.path("frontier.jsonl"), "--loss", "niah"], "niah")

    def test_a_line_that_was_not_finished_is_left_out(self):
        path = self.folder / "cut.jsonl"
        path.write_text(json.dumps(CASES[0]) + "\n" + json.dumps(CASES[1])[:20])
        self.assertEqual(read_cases(path), [CASES[0]])
        path.write_text("{\n" + json.dumps(CASES[1]) + "\n")
        with self.assertRaisesRegex(FileError, "line 1"):
            read_lines(path)


if __name__ == "__main__":
    unittest.main()
