"""Makes jobs.csv, the list of 40 jobs that `bench/peers.py` runs, from a public cluster trace.

In: Alibaba's `openb_pod_list` of 2023 (8,152 pods with creation and deletion times), as its path is
given. Out: jobs.csv beside this file. Of all runs of 40 successive pods the one is taken whose
lengths are distributed most like those of the whole trace (least Kolmogorov-Smirnov distance), so
that both lengths and the bursts in which jobs come are those of real users. A minute of the trace
is two seconds here, no job is longer than three minutes, and all arrive within eight.

    python -m bench.data.derive_jobs TRACE
"""

from __future__ import annotations

import csv
import sys
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

_JOBS = 40
_SCALE = 30
_LONGEST_SECONDS = 180
_ARRIVAL_SECONDS = 480


def derive(pods: Sequence[tuple[float, float]]) -> list[tuple[float, int]]:
    """Arrival and length of each job in seconds, of pods' creation and deletion times."""
    ordered = sorted((created, deleted - created) for created, deleted in pods)
    lengths = sorted(length for _, length in ordered)
    starts = range(len(ordered) - _JOBS + 1)
    windows = (ordered[start : start + _JOBS] for start in starts)
    best = min(windows, key=lambda window: _distance([length for _, length in window], lengths))
    first, last = best[0][0], best[-1][0]
    return [
        (
            round((created - first) / (last - first) * _ARRIVAL_SECONDS, 1),
            min(_LONGEST_SECONDS, max(1, round(length / _SCALE))),
        )
        for created, length in best
    ]


def _distance(sample: Sequence[float], ordered: Sequence[float]) -> float:
    """The most by which the share of lengths up to some length differs between the two."""
    return max(
        abs(rank / len(sample) - bisect_right(ordered, length) / len(ordered))
        for rank, length in enumerate(sorted(sample), 1)
    )


def main(trace: Path) -> None:
    """Reads the trace and writes jobs.csv."""
    with trace.open() as lines:
        pods = [
            (float(row["creation_time"]), float(row["deletion_time"]))
            for row in csv.DictReader(lines)
            if row["deletion_time"]
        ]
    with (Path(__file__).parent / "jobs.csv").open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["arrival_seconds", "seconds"])
        writer.writerows(derive(pods))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
