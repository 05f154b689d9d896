"""python3 -m sedpa_plots heads|compare|masking|needles|sparsity|frontier FILE... -o PICTURE"""
import argparse
import pathlib
import sys

from sedpa_plots import figures
from sedpa_plots.files import (FileError, files_in, read_cases, read_heads, read_run,
                               read_settings)


def name_of(path):
    path = pathlib.Path(path)
    return path.resolve().name if path.is_dir() else f"{path.resolve().parent.name}/{path.name}"


def draw(options):
    title = options.title
    if options.picture == "heads":
        [path] = options.files
        return figures.heads(read_heads(path), title or name_of(path))
    if options.picture == "compare":
        first, second = options.files
        return figures.compare(read_heads(first), read_heads(second),
                               (name_of(first), name_of(second)))
    if options.picture == "frontier":
        [path] = options.files
        settings = read_settings(path)
        for test in {"passkey", "niah"} & {options.loss}:
            if any(line[test] is None for line in settings):
                raise FileError(f"{path}: its settings were not asked for {test}")
        return figures.frontier(settings, title or name_of(path), options.loss, options.cost)
    if options.picture == "sparsity":
        runs = [read_run(path) for place in options.files for path in files_in(place)]
        if not runs:
            raise FileError(f"{options.files[0]}: no JSON lines (.jsonl) in it")
        return figures.sparsity(runs, title or "What streaming heads still find")
    cases = [case for path in options.files for case in read_cases(path)]
    if options.picture == "masking":
        if not any("mask" in case for case in cases):
            raise FileError(f"{options.files[0]}: no masked heads in it")
        return figures.masking(cases, title or "Masked heads")
    return figures.needles(cases, title or "Needles found")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="sedpa-plots", description="Pictures of sedpa's results.")
    parser.add_argument("picture", choices=("heads", "compare", "masking", "needles", "sparsity",
                                            "frontier"))
    parser.add_argument("files", nargs="+", help="pattern directories, tables (.tsv) or JSON lines,"
                                                 " of sparsity folders of them too")
    parser.add_argument("-o", "--output", required=True, help="the picture: .png, .pdf or .svg")
    parser.add_argument("--title")
    parser.add_argument("--loss", choices=figures.LOSSES, default="kl", help="of frontier")
    parser.add_argument("--cost", choices=figures.COSTS, default="decode_bytes", help="of frontier")
    options = parser.parse_args(arguments)
    wanted = {"heads": 1, "compare": 2, "frontier": 1}.get(options.picture)
    if wanted and len(options.files) != wanted:
        parser.error(f"{options.picture} takes {wanted} file(s), not {len(options.files)}")
    try:
        figure = draw(options)
        figure.savefig(options.output, dpi=150)
    except (FileError, ValueError, OSError) as error:
        print(f"sedpa-plots: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
