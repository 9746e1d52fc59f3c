"""What ran where and when, from the container runtimes' own records.

Enters: the logs that each machine's containerd wrote, which outlive the machine. Leaves: one Ran
for each time that a container of a pod was started. Nothing of piecework's is asked: neither its
labels nor what Kubernetes' API says about a pod.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from piecework.clock import from_text, now
from testbed import machine, record
from testbed.place import Place

_LINE = re.compile(r'^time="(?P<at>[^"]+)" level=\w+ msg="(?P<message>.*)$')
_SANDBOX = re.compile(
    r"RunPodSandbox for &PodSandboxMetadata{Name:(?P<pod>[^,]+),Uid:[^,]+,"
    r'Namespace:(?P<namespace>[^,]+),.*returns sandbox id \\"(?P<sandbox>\w+)\\"'
)
_CONTAINER = re.compile(
    r'CreateContainer within sandbox \\"(?P<sandbox>\w+)\\" for '
    r'&ContainerMetadata{.*returns container id \\"(?P<container>\w+)\\"'
)
_ASKED = re.compile(r'StartContainer for \\"(?P<container>\w+)\\""')
_STARTED = re.compile(r'StartContainer for \\"(?P<container>\w+)\\" returns successfully')
_ENDED = re.compile(r'shim disconnected" id=(?P<container>\w+)')
#: How long a machine's log may be missing, while the machine begins or ends.
_SETTLED_SECONDS = 10.0
#: The folders of machines that are gone have the time of that behind the machine's name.
_GONE = re.compile(r"^(?P<name>.+)-\d{13}$")


@dataclass(frozen=True, slots=True)
class Ran:
    """A container of a pod ran on a machine. `end` is now where it still runs.

    `start` is when the runtime said that it runs, `asked` when it began to start it: on a loaded
    machine the first is late.
    """

    machine: str
    namespace: str
    pod: str
    asked: datetime
    start: datetime
    end: datetime


def read(place: Place, namespaces: Collection[str]) -> list[Ran]:
    """Every container that ever ran for pods of these namespaces, in the order of their starts."""
    deadline = time.monotonic() + _SETTLED_SECONDS
    while True:
        try:
            found = list(_read_all(place))
            break
        except FileNotFoundError:  # a machine begins, or its folder is moved away, at this moment
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    chosen = (ran for ran in found if ran.namespace in namespaces)
    return sorted(chosen, key=lambda ran: ran.start)


def _read_all(place: Place) -> Iterator[Ran]:
    lives = record.read(place)
    there = [
        (name, _text(machine.folder_of(place, name) / "log" / "containerd.log"))
        for name in machine.names(place)
    ]
    gone = [
        (named["name"], _text(folder / "containerd.log"))
        for folder in (place.logs / "machines").glob("*")
        if (named := _GONE.match(folder.name)) and (folder / "containerd.log").exists()
    ]
    for name, text in only_once(there, gone):
        life = lives.get(name)
        died = (life.stopped if life else None) or now()
        yield from read_log(name, text.splitlines(), died)


def _text(log: Path) -> str:
    return log.read_text(errors="replace")


def only_once(
    there: Sequence[tuple[str, str]], gone: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Machines and their logs, without those that were moved away after they had been read."""
    return [
        *gone,
        *(
            (name, text)
            for name, text in there
            if not any(other == name and moved.startswith(text) for other, moved in gone)
        ),
    ]


def read_log(name: str, lines: Iterable[str], died: datetime) -> Iterator[Ran]:
    """The containers of one machine; those that did not end before it did ended with it."""
    pod_of: dict[str, tuple[str, str]] = {}
    sandbox_of: dict[str, str] = {}
    asked: dict[str, datetime] = {}
    started: dict[str, datetime] = {}
    ended: dict[str, datetime] = {}
    for line in lines:
        if (found := _LINE.match(line)) is None:
            continue
        at, message = from_text(found["at"][:26].rstrip("Z") + "Z"), found["message"]
        if sandbox := _SANDBOX.search(message):
            pod_of[sandbox["sandbox"]] = sandbox["namespace"], sandbox["pod"]
        elif created := _CONTAINER.search(message):
            sandbox_of[created["container"]] = created["sandbox"]
        elif due := _ASKED.search(message):
            asked.setdefault(due["container"], at)
        elif begun := _STARTED.search(message):
            started[begun["container"]] = at
        elif over := _ENDED.search(message):
            ended.setdefault(over["container"], at)
    for container, start in started.items():
        namespace, pod = pod_of[sandbox_of[container]]
        before, end = asked.get(container, start), ended.get(container, died)
        yield Ran(name, namespace, pod, before, start, end)


def find_faults(runs: Iterable[Ran]) -> list[str]:
    """Where two pods ran on one machine at one time, or one run ran twice at once; in words."""
    on_machine, of_pod, of_run = defaultdict(list), defaultdict(list), defaultdict(list)
    for ran in sorted(runs, key=lambda ran: ran.start):
        on_machine[ran.machine].append(ran)
        of_pod[ran.namespace, ran.pod].append(ran)
        # A pod is named by its run and the number of the attempt.
        of_run[ran.namespace, ran.pod.rpartition("-")[0]].append(ran)
    found = [
        f"{later.pod} began on {name} {_seconds(later, earlier):.1f} s before {earlier.pod} ended"
        for name, some in on_machine.items()
        for earlier, later in pairwise(some)
        if later.start < earlier.end
    ]
    found += [
        f"{later.pod} began {_seconds(later, earlier):.1f} s before {earlier.pod} of its run ended"
        for some in of_run.values()
        for earlier, later in pairwise(some)
        if later.start < earlier.end
    ]
    return found + [f"{pod[1]} ran {len(s)} times" for pod, s in of_pod.items() if len(s) > 1]


def _seconds(later: Ran, earlier: Ran) -> float:
    return (earlier.end - later.start).total_seconds()
