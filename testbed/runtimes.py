"""What the container runtimes of the machines say that they ran, and when.

What enters are the logs of containerd, of machines that are there and of machines that are gone;
what leaves is one run of a container each. Nobody's labels and no API server have a part in it, so
it is what tests hold promises against that no two jobs share a machine and none runs twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from piecework.clock import from_text
from testbed import machine, record
from testbed.place import Place

_LINE = re.compile(r'^time="([^"]+)" level=\w+ msg="((?:[^"\\]|\\.)*)"(.*)$')
_SANDBOX = re.compile(
    r"RunPodSandbox for &PodSandboxMetadata\{Name:([^,]+),Uid:[^,]*,Namespace:([^,]+),.*"
    r"returns sandbox id \"(\w+)\""
)
_CREATED = re.compile(
    r"CreateContainer within sandbox \"(\w+)\" for &ContainerMetadata\{Name:([^,]+),.*"
    r"returns container id \"(\w+)\""
)
_STARTED = re.compile(r"StartContainer for \"(\w+)\" returns successfully")
_ENDED = re.compile(r"\bid=(\w+)")


@dataclass(frozen=True, slots=True)
class Run:
    """One container that ran. `ended` is None while it runs; a machine's death ends its own."""

    machine: str
    namespace: str
    pod: str
    container: str
    started: datetime
    ended: datetime | None = None


def runs(place: Place) -> list[Run]:
    """All containers that ever ran on the testbed's machines, by the time of their start."""
    lives = record.read(place)
    found = []
    for name, log in _logs(place):
        for run in parse(name, log.read_text(errors="replace").splitlines()):
            stopped = lives[name].stopped if name in lives else None
            found.append(replace(run, ended=run.ended or stopped))
    return sorted(found, key=lambda run: run.started)


def overlapping(found: Iterable[Run]) -> list[tuple[Run, Run]]:
    """Pairs of containers of different pods that ran on one machine at one time."""
    by_machine: dict[str, list[Run]] = {}
    for run in sorted(found, key=lambda run: run.started):
        by_machine.setdefault(run.machine, []).append(run)
    return [
        (first, second)
        for there in by_machine.values()
        for number, first in enumerate(there)
        for second in there[number + 1 :]
        if (first.namespace, first.pod) != (second.namespace, second.pod)
        and (first.ended is None or second.started < first.ended)
    ]


def parse(name: str, lines: Iterable[str]) -> list[Run]:
    """The containers that one machine's containerd tells of in its log."""
    sandboxes: dict[str, tuple[str, str]] = {}
    containers: dict[str, tuple[str, str]] = {}
    found: dict[str, Run] = {}
    for line in lines:
        matched = _LINE.match(line)
        if matched is None:
            continue
        at, said, more = from_text(matched[1]), matched[2].replace('\\"', '"'), matched[3]
        if sandbox := _SANDBOX.match(said):
            sandboxes[sandbox[3]] = (sandbox[2], sandbox[1])
        elif created := _CREATED.match(said):
            containers[created[3]] = (created[1], created[2])
        elif (started := _STARTED.match(said)) and started[1] in containers:
            sandbox_id, container = containers[started[1]]
            namespace, pod = sandboxes.get(sandbox_id, ("", ""))
            found[started[1]] = Run(name, namespace, pod, container, at)
        elif said == "shim disconnected" and (ended := _ENDED.search(more)) and ended[1] in found:
            found[ended[1]] = replace(found[ended[1]], ended=at)
    return list(found.values())


def _logs(place: Place) -> Iterator[tuple[str, Path]]:
    for name in machine.names(place):
        log = machine.folder_of(place, name) / "log" / "containerd.log"
        if log.exists():
            yield name, log
    # The logs of a machine that is gone are kept under its name and the time of its end.
    for log in (place.logs / "machines").glob("*/containerd.log"):
        yield log.parent.name.rpartition("-")[0], log
