"""The order of a pipeline's jobs: what `after` may say.

What enters is, for each job, the names in its `after`; what leaves is what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from piecework.errors import show
from piecework.spec.wording import suggest

_MOST_CYCLES = 20


def find_faults(after: Mapping[str, Sequence[object]]) -> Iterator[tuple[str, int, str]]:
    """Job, index in its `after`, and what is wrong there."""
    order: dict[str, list[str]] = {}
    hints: dict[object, str] = {}
    for job, names in after.items():
        seen: dict[str, int] = {}
        for index, name in enumerate(names):
            if not isinstance(name, str):
                continue  # its type is told by the model
            if name not in after:
                others = [other for other in after if other != job]
                if name not in hints and len(hints) < 100:
                    hints[name] = suggest(name, others, None if others else "it is the only job")
                hint = hints.get(name, "name one of this pipeline's jobs")
                yield job, index, f"found {show(name)}, which is no job of this pipeline; {hint}"
            elif name in seen:
                yield job, index, f"found {show(name)} a second time; take it out"
            else:
                seen[name] = index
        order[job] = list(seen)
    yield from _find_cycles(order, after)


def _find_cycles(
    order: dict[str, list[str]], after: Mapping[str, Sequence[object]]
) -> Iterator[tuple[str, int, str]]:
    """One finding a cycle; each is opened once it is told, so that the next can be found."""
    for _ in range(_MOST_CYCLES):
        try:
            TopologicalSorter(order).prepare()
        except CycleError as error:
            # graphlib gives each job before the one that comes after it, the first one twice.
            cycle: list[str] = error.args[1]
        else:
            return
        start = cycle.index(min(cycle[:-1], key=list(order).index))
        jobs = [*cycle[start:-1], *cycle[:start]]
        job, before = jobs[0], jobs[-1]
        shown = jobs if len(jobs) <= 10 else [*jobs[:8], "...", jobs[-1]]
        path = " -> ".join([*shown, job])
        if job == before:
            message = f"found {show(job)} after itself; take it out"
        else:
            message = f"found a cycle: {path}; take one of these out of another's after"
        yield job, list(after[job]).index(before), message
        order[job].remove(before)
