"""``python -m benchmarks``: measure fastgrad beside its peers. ``python -m benchmarks --help`` for the options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import instructions, machine, plot, report, roofline
from .results import Results
from .runner import LIBRARIES, Library, Runner, Settings
from .workloads import WORKLOADS, Workload, select


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure fastgrad beside its peers.")
    p.add_argument("--only", action="append", default=[], metavar="PATTERN",
                   help="workloads whose name contains PATTERN or matches it as a glob; may be repeated")  # fmt: skip
    p.add_argument("--list", action="store_true", help="list the workloads and their floors, and stop")
    p.add_argument("--quick", action="store_true", help="short rounds and smaller graphs: a look, not a measurement")
    p.add_argument("--libs", metavar="A,B", help=f"libraries that take part (default: {','.join(LIBRARIES)})")
    p.add_argument("--with", dest="extra", action="append", default=[], metavar="NAME=MODULE",
                   help="add a library of your own: MODULE is written like benchmarks/lib_numpy.py")  # fmt: skip
    p.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    p.add_argument("--threads", type=_positive, default=machine.cores(), metavar="N", help="default: all cores")
    p.add_argument("--rounds", type=_positive, metavar="N", help="rounds per workload (default: 7; quick: 3)")
    p.add_argument("--round-ms", type=float, metavar="MS", help="least length of a round (default: 50; quick: 10)")
    p.add_argument("--seed", type=int, default=0, metavar="N")
    p.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="give up on a worker after this")
    p.add_argument("--json", type=Path, metavar="FILE", help="write every round, and what it was measured on")
    p.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the times (.svg, .png or .pdf)")
    p.add_argument("--roofline", type=Path, metavar="FILE.svg",
                   help="run roofline/* (and what --only names), draw rates by arithmetic intensity")  # fmt: skip
    p.add_argument("--batch", type=Path, metavar="FILE.svg",
                   help="run batch/* (and what --only names), draw time per step by batch size")  # fmt: skip
    p.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    p.add_argument("--load", type=Path, metavar="FILE", help="show the results in a --json file instead of measuring")
    p.add_argument("--instructions", action="store_true",
                   help="count fastgrad's instructions per step, small workloads, under valgrind")  # fmt: skip
    return p


def _positive(text: str) -> int:
    if (n := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return n


def _libraries(options: argparse.Namespace, p: argparse.ArgumentParser) -> dict[str, Library]:
    chosen = dict(LIBRARIES)
    if options.libs is not None:
        names = options.libs.split(",")
        if unknown := [n for n in names if n not in LIBRARIES]:
            p.error(f"unknown library {unknown[0]!r}: choose from {', '.join(LIBRARIES)}")
        chosen = {n: LIBRARIES[n] for n in names}
    for item in options.extra:
        name, _, module = item.partition("=")
        if not name or not module:
            p.error(f"--with takes NAME=MODULE, not {item!r}")
        chosen[name] = Library(module, name, (name,))
    return chosen


def _list(workloads: list[Workload]) -> None:
    width = max(len(w.name) for w in workloads)
    for w in workloads:
        print(f"{w.name:{width}} {w.describe()}{' (on request)' * w.on_request}")
        for floor in w.floors:
            print(f"{'':{width}}   floor: {floor.text}")


def _measure(options: argparse.Namespace, settings: Settings, workloads: list[Workload]) -> tuple[Results, bool]:
    """The results, and whether they were interrupted."""
    with Runner(settings) as runner:
        try:
            return runner.run(workloads), False
        except KeyboardInterrupt:
            return runner.results, True


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0; 1 where a result was wrong; 130 where it was interrupted."""
    p = parser()
    options = p.parse_args(argv)
    if options.instructions:
        return instructions.main()
    pictures = {name: path for name in ("roofline", "batch") if (path := getattr(options, name))}
    workloads = select([*options.only, *(f"{name}/*" for name in pictures)])
    if not workloads:
        p.error(f"no workload matches {' '.join(options.only)}; see --list")
    if options.list:
        _list(workloads if options.only or pictures else WORKLOADS)
        return 0
    interrupted = False
    if options.load:
        results = Results.load(options.load)
    else:
        settings = Settings(
            libraries=_libraries(options, p),
            threads=options.threads,
            dtype=options.dtype,
            quick=options.quick,
            rounds=options.rounds or (3 if options.quick else 7),
            round_ms=options.round_ms or (10.0 if options.quick else 50.0),
            seed=options.seed,
            timeout_s=options.timeout,
        )
        try:
            results, interrupted = _measure(options, settings, workloads)
        except KeyboardInterrupt:
            return 130
    if options.json:
        results.save(options.json)
    drawings = ((options.plot, plot.write), (options.roofline, roofline.write), (options.batch, plot.write_batches))
    for path, write in drawings:
        if path:
            try:
                write(results, path)
            except (ImportError, ValueError) as error:
                print(f"No picture: {error}", file=sys.stderr)
    if options.markdown:
        print(report.markdown(results))
    else:
        report.show(results)
    if interrupted:
        print("Interrupted: these are the rows up to here.", file=sys.stderr)
        return 130
    return 1 if any(results.wrong()) else 0


if __name__ == "__main__":
    sys.exit(main())
