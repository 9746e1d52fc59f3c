"""A soak: seeded random rounds of runs and faults on both kinds of pool, and many short runs.

200 rounds in turns on Karpenter and on Auto Scaling groups of one testbed, then 200 runs of 1 to
20 s in two namespaces on at most 8 machines of each kind. After every round it is checked that no
outcome is false, that no machine had two runs at a time (from the container runtimes' records), and
that the ledger adds up; in the end that nothing is left and that every bill is the testbed's own
record. PIECEWORK_BENCH_SEED=N begins with the round of that seed, which is how one is repeated;
PIECEWORK_BENCH_ROUNDS says how many. Needs root on Linux.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.timing import Figure, Result, Spread
from testbed import cluster, programs
from testbed.api import Api
from testbed.place import Place
from tests.cluster.aftermath import Aftermath, check_now, settle
from tests.cluster.rounds import KINDS, arena, limits
from tests.cluster.soak import play, stress

_NAME = "bench-soak"
_NAMES = {"karpenter": "Karpenter", "asg": "group"}


def run(quick: bool) -> Result:
    """Rounds with faults, then many short runs (quick: 6 rounds, 40 runs)."""
    rounds = int(os.environ.get("PIECEWORK_BENCH_ROUNDS") or (6 if quick else 200))
    first = int(os.environ.get("PIECEWORK_BENCH_SEED") or 1)
    figures: list[Figure] = []
    notes: list[str] = []
    try:
        here = cluster.up(_NAME, programs.say)
        with tempfile.TemporaryDirectory() as folder, Api(here.admin) as api:
            figures += _soak(here, api, Path(folder), range(first, first + rounds), notes)
            for kind in KINDS:
                figures += _stress(here, api, Path(folder), kind, quick, notes)
    finally:
        cluster.down(_NAME)
    return Result("soak", tuple(figures), tuple(notes))


def _soak(here: Place, api: Api, home: Path, seeds: range, notes: list[str]) -> list[Figure]:
    """Rounds in turns on both kinds of pool; the first that goes wrong ends the bench."""
    seconds: list[float] = []
    with ExitStack() as stack:
        arenas = [
            stack.enter_context(arena(here, api, kind, home / f"soak-{kind}", limits(6)))
            for kind in KINDS
        ]
        for seed in seeds:
            chosen = arenas[seed % len(arenas)]
            began = time.monotonic()
            assert chosen.keeper
            programs.say(f"round {seed - seeds.start + 1} of {len(seeds)}, seed {seed}")
            programs.say(play(chosen, seed))
            check_now(chosen)
            seconds.append(time.monotonic() - began)
        measured = {found.kind: settle(found) for found in arenas}
    for kind, found in measured.items():
        notes.append(f"{len(seeds)} rounds from seed {seeds.start}, {_NAMES[kind]}: {found}")
    rounds = Figure("a round", Spread.of(seconds), "s")
    return [rounds, *(figure for kind, m in measured.items() for figure in _figures(kind, m))]


def _stress(
    here: Place, api: Api, home: Path, kind: str, quick: bool, notes: list[str]
) -> list[Figure]:
    runs, longest, machines = (40, 5, 4) if quick else (200, 20, 8)
    with arena(here, api, kind, home / f"stress-{kind}", limits(machines), second=True) as found:
        assert found.keeper
        began = time.monotonic()
        stress(found, runs, longest, seed=1)
        seconds = time.monotonic() - began
        measured = settle(found)
    name = _NAMES[kind]
    notes.append(f"{runs} runs of 1 to {longest} s on {machines} machines, {name}: {measured}")
    return [
        Figure(f"{name}, {runs} short runs: until all ended", Spread.of([seconds]), "s"),
        Figure(f"{name}, {runs} short runs: hand-overs", Spread.of([measured.hand_overs]), ""),
        Figure(
            f"{name}, {runs} short runs: bought and not used",
            Spread.of([measured.unused]),
            "",
            at_most=0,
        ),
        *_figures(kind, measured, f"{runs} short runs: "),
    ]


def _figures(kind: str, measured: Aftermath, what: str = "rounds: ") -> list[Figure]:
    name = f"{_NAMES[kind]}, {what}"
    return [
        Figure(f"{name}paid without need", Spread.of(measured.unneeded_seconds), "s"),
        Figure(f"{name}billed beyond the record", Spread.of(measured.billed_beyond_seconds), "s"),
    ]
