#!/usr/bin/env python3
"""Words of the book and their stems by NLTK's Porter stemmer, which rouge-score uses, and ROUGE-1
of some answers: writes tests/data/eval/stems.tsv and rouge1.json. Needs: pip install rouge-score."""
import json
import pathlib
import re

from nltk.stem import porter
from rouge_score import rouge_scorer

NEEDLE = ("The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a "
          "sunny day.")
ANSWERS = [
    " eat a sandwich and sit in Dolores Park on a sunny day.",
    "Eating a sandwich and sitting in Dolores Park on a sunny day",
    "to eat a SANDWICH, a sandwich and a sandwich in the park",
    "I don't know: it's 7x7 (in 2024)",
    "Go to Dolores-Park_on a day\tin San Francisco's best",
    "--",
    "",
]


def main():
    tree = pathlib.Path(__file__).resolve().parent.parent.parent
    out = tree / "tests/data/eval"
    out.mkdir(parents=True, exist_ok=True)
    words = sorted(set(re.findall("[a-z]+", (tree / "data/war_and_peace.txt").read_text().lower())))
    stemmer = porter.PorterStemmer()
    # Every tenth, and all with an ending that few words have.
    rare = re.compile("(ies|ied|eed|logi|logy|ally|fully|bly|ness|ization|ator|[aiou]ll|[lsz]{2}ing)$")
    kept = [word for i, word in enumerate(words) if i % 10 == 0 or rare.search(word)]
    kept += ["skies", "dying", "news", "succeed", "sky", "generally", "psychology"]
    (out / "stems.tsv").write_text("".join(f"{word}\t{stemmer.stem(word)}\n" for word in kept))
    scorer = rouge_scorer.RougeScorer(["rouge1"], use_stemmer=True)
    scores = [scorer.score(NEEDLE, answer)["rouge1"] for answer in ANSWERS]
    (out / "rouge1.json").write_text(json.dumps({
        "reference": NEEDLE,
        "answers": [{"text": answer, "recall": s.recall, "precision": s.precision,
                     "f_measure": s.fmeasure} for answer, s in zip(ANSWERS, scores)],
    }, indent=1) + "\n")


if __name__ == "__main__":
    main()
