"""The demonstration's text and table: see scripts/demo."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

# What is hidden: where (as a share of the text), the fact, the question, what a right answer holds.
FACTS = [
    (0.30, "The best thing to do in San Francisco is to eat a sandwich and sit in Dolores Park on a "
           "sunny day.",
     "What is the best thing to do in San Francisco? The best thing to do in San Francisco is",
     ["sandwich", "Dolores Park"]),
    (0.65, "The pass key is 71432. Remember it. 71432 is the pass key.",
     "What is the pass key? The pass key is", ["71432"]),
]
# Their names in files, and in the table.
SETTINGS = {"full": "full attention", "half": "half streaming"}
TITLES = {"full": "full attention", "half": "half of the KV heads streaming"}


def count_tokens(tokenize, text):
    """How many tokens `tokenize` (a command line) makes of `text`."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write(text)
        file.flush()
        out = subprocess.run([*tokenize, "-f", file.name], check=True, stdout=subprocess.PIPE)
    return out.stdout.count(b",") + 1


def with_facts(paragraphs):
    """The paragraphs with every fact at its place, nearest to its share of the characters."""
    size = sum(map(len, paragraphs))
    facts = list(FACTS)
    done, result = 0, []
    for paragraph in paragraphs:
        while facts and done >= facts[0][0] * size:
            result.append(facts.pop(0)[1])
        result.append(paragraph)
        done += len(paragraph)
    return "\n\n".join(result + [fact[1] for fact in facts])


def compose(options):
    book = options.text.read_text(encoding="utf-8")
    # Tokens are not spread evenly: a rough share of the book first, then paragraph by paragraph
    # in steps that shrink with what is left.
    if options.tokens > len(book):
        sys.exit(f"error: {options.text} holds {len(book)} characters, too few for "
                 f"{options.tokens} tokens: give a longer one as TEXT=FILE")
    paragraphs = book[:options.tokens * 8].split("\n\n")
    low, high = 1, len(paragraphs)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(options.tokenize, with_facts(paragraphs[:middle])) <= options.tokens:
            low = middle
        else:
            high = middle - 1
    document = with_facts(paragraphs[:low])
    (options.out / "document.txt").write_text(document, encoding="utf-8")
    for number, (_, _, question, _) in enumerate(FACTS, 1):
        (options.out / f"question{number}.txt").write_text(question, encoding="utf-8")
    total = count_tokens(options.tokenize, document)
    if total < options.tokens * 0.9:
        sys.exit(f"error: {options.text} gives only {total} of {options.tokens} tokens: give a "
                 "longer one as TEXT=FILE")


def megabytes(count):
    return f"{count / 1e6:.1f} MB"


def right(folder, setting, number):
    answer = (folder / f"{setting}.answer{number}.txt").read_text(encoding="utf-8", errors="replace")
    return all(part in answer for part in FACTS[number - 1][3])


def table(options):
    runs = {}
    for setting in SETTINGS:
        runs[setting] = {part: json.loads((options.folder / f"{setting}.{part}.json").read_text())
                         for part in ("plan", "read", "write")}
    rows = []

    def add(label, value, show, better=None):
        full, half = (value(runs[setting]) for setting in SETTINGS)
        factor = "" if better is None else f"{(half / full if better == 'more' else full / half):.2f}x"
        rows.append((label, show(full), show(half), factor))

    def rate(value):
        return f"{value:.1f}"

    add("tokens of the text", lambda run: run["read"]["prompt_tokens"], str)
    add("prefill, tokens/s", lambda run: run["read"]["prefill_tokens_per_second"], rate, "more")
    add("decode, tokens/s", lambda run: run["write"]["decode_tokens_per_second"], rate, "more")
    add("KV cache, planned", lambda run: run["plan"]["kv_bytes"], megabytes, "less")
    add("KV cache, allocated", lambda run: run["read"]["kv_bytes"], megabytes, "less")
    add("peak memory", lambda run: run["read"]["peak_bytes"], megabytes, "less")
    verdicts = {}
    for setting in SETTINGS:
        verdicts[setting] = sum(right(options.folder, setting, n + 1) for n in range(len(FACTS)))
    rows.append(("right answers", *(f"{verdicts[s]} of {len(FACTS)}" for s in SETTINGS), ""))

    header = ("", *SETTINGS.values(), "gain")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(4)]
    for row in [header, *rows]:
        print(row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 4)), sep="   ")
    if options.check and min(verdicts.values()) < len(FACTS):
        sys.exit("error: an answer is wrong that this model gets right")


def main():
    parser = argparse.ArgumentParser()
    actions = parser.add_subparsers(dest="action", required=True)
    action = actions.add_parser("compose")
    action.add_argument("--text", type=pathlib.Path, required=True)
    action.add_argument("--tokens", type=int, required=True)
    action.add_argument("--out", type=pathlib.Path, required=True)
    action.add_argument("tokenize", nargs="+", help="the command that tokenizes -f FILE")
    action.set_defaults(run=compose)
    action = actions.add_parser("title")
    action.add_argument("setting", choices=SETTINGS)
    action.set_defaults(run=lambda options: print(TITLES[options.setting]))
    action = actions.add_parser("table")
    action.add_argument("--folder", type=pathlib.Path, required=True)
    action.add_argument("--check", action="store_true", help="fail when an answer is wrong")
    action.set_defaults(run=table)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
