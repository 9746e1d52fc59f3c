"""Runs the benches that are named, or all, and prints what they found.

Exit code: 0 where every limit is met, 1 where one is missed or a bench failed, 2 for a wrong name.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from dataclasses import asdict
from typing import Any

from bench.timing import Figure, Result

#: Each is a module of this folder with `run(quick: bool) -> Result`.
BENCHES = (
    "startup",
    "attempt",
    "ledger",
    "airflow",
    "spark",
    "engines",
    "advise",
    "testbed",
    "testbed_scale",
    "peers",
    "keeper_scale",
    "triggers",
    "airflow_cluster",
    "faults",
    "soak",
)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller data")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    return options


def _run(name: str, quick: bool) -> Result | None:
    """One failing bench must not hide the others: it is told on stderr."""
    try:
        found: Result = importlib.import_module(f"bench.{name}").run(quick)
    except Exception:
        print(f"bench {name} failed:", file=sys.stderr)
        traceback.print_exc()
        return None
    return found


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _limit(figure: Figure) -> str:
    limits = []
    if figure.at_most is not None:
        limits.append(f"at most {_number(figure.at_most)}")
    if figure.at_least is not None:
        limits.append(f"at least {_number(figure.at_least)}")
    if not limits:
        return ""
    return f"{' and '.join(limits)}: {'met' if figure.met else 'MISSED'}"


def _print(result: Result) -> None:
    print(f"\n{result.name}")
    width = max((len(figure.label) for figure in result.figures), default=0)
    print(f"  {'':{width}}  {'median':>10} {'least':>10} {'most':>10}")
    for figure in result.figures:
        spread = figure.spread
        numbers = " ".join(
            f"{_number(value):>10}" for value in (spread.median, spread.least, spread.most)
        )
        print(f"  {figure.label:{width}}  {numbers} {figure.unit:9} {_limit(figure)}".rstrip())
    for note in result.notes:
        print(f"  {note}")


def _to_json(result: Result) -> dict[str, Any]:
    raw = asdict(result)
    for figure, stated in zip(result.figures, raw["figures"], strict=True):
        stated["met"] = figure.met
    return raw


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    results = []
    failed = []
    for name in options.names or BENCHES:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        result = _run(name, options.quick)
        if result is None:
            failed.append(name)
            continue
        results.append(result)
        if not options.json:
            _print(result)
            sys.stdout.flush()
    if options.json:
        json.dump(
            {"results": [_to_json(r) for r in results], "failed": failed}, sys.stdout, indent=2
        )
        print()
    missed = [figure for result in results for figure in result.figures if figure.met is False]
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
