"""The testbed: how fast it starts, stops and buys, what it uses, and whether it leaves anything.

Needs root on Linux. What is built already is not built again; with PIECEWORK_BENCH_COLD=1 all of
it is, into an empty cache, which takes many minutes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.timing import Figure, Result, Spread, measure
from testbed import (
    aws,
    cgroups,
    cluster,
    components,
    found,
    images,
    karpenter,
    kwok,
    machine,
    pods,
    programs,
    record,
)
from testbed.api import Api, Object, is_ready
from testbed.errors import MissingProgramError
from testbed.place import Place
from testbed.size import size_of

_NAME = "bench"
_CLAIMS = "karpenter.sh/v1"
_MEBIBYTE = 2**20


@dataclass
class _Times:
    """Seconds by label, in the order in which they were first measured."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, label: str, seconds: float) -> None:
        self.values.setdefault(label, []).append(seconds)

    def figures(self, prefix: str, **limits: float) -> list[Figure]:
        return [
            Figure(f"{prefix}{label}", Spread.of(values), "s", at_most=limits.get(label))
            for label, values in self.values.items()
        ]


def run(quick: bool) -> Result:
    """Start, stop, memory, eight machines, a pod's way by both autoscalers, rounds with a kill."""
    figures: list[Figure] = []
    notes: list[str] = []
    if os.environ.get("PIECEWORK_BENCH_COLD"):
        figures.append(_cold_build())
    programs.build_all(programs.say)
    figures += _start_and_stop(1 if quick else 5)
    try:
        here = cluster.up(_NAME, programs.say)
        with Api(here.admin) as api:
            figures += _memory_without_machines(here, notes)
            figures += _machines(here, api, notes)
            figures += _way_by_karpenter(here, api, 1 if quick else 5)
            figures += _way_by_autoscaler(here, api, 1 if quick else 3, notes)
    finally:
        cluster.down(_NAME)
    figures += _rounds(3 if quick else 20, notes)
    return Result("testbed", tuple(figures), tuple(notes))


def _cold_build() -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        empty = {"GOCACHE": f"{folder}/go", "PIECEWORK_TESTBED_CACHE": f"{folder}/cache"}
        command = [sys.executable, "-m", "testbed", "build"]
        environment = os.environ | empty
        seconds = measure(lambda: subprocess.run(command, env=environment, check=True))
    return Figure("cold build, modules downloaded", Spread.of([seconds / 60]), "min", at_most=20)


def _start_and_stop(times: int) -> list[Figure]:
    cluster.down(_NAME)
    started, stopped = [], []
    for _ in range(times):
        started.append(measure(lambda: cluster.up(_NAME, programs.say)))
        stopped.append(measure(lambda: cluster.down(_NAME)))
    return [
        Figure("warm start", Spread.of(started), "s", at_most=30),
        Figure("down, without machines", Spread.of(stopped), "s", at_most=15),
    ]


def _memory_without_machines(here: Place, notes: list[str]) -> list[Figure]:
    """With everything started that buys machines."""
    aws.start(here)
    karpenter.start(here)
    kwok.start(here)
    try:
        aws.start_autoscaler(here)
    except MissingProgramError as error:
        notes.append(str(error))
    time.sleep(10)  # let them settle
    used = cluster.status(here)
    notes.append(
        "memory in MiB: "
        + ", ".join(f"{item.name} {item.usage.memory_bytes / _MEBIBYTE:.0f}" for item in used)
    )
    total = sum(item.usage.memory_bytes for item in used) / _MEBIBYTE
    return [Figure("memory without machines", Spread.of([total]), "MiB", at_most=1300)]


def _machines(here: Place, api: Api, notes: list[str]) -> list[Figure]:
    """One machine, then eight at once, each with a pod."""
    joins = []
    for number in range(3):
        name = f"alone-{number}"
        joins.append(measure(lambda name=name: _start(here, api, [name])))  # type: ignore[misc]
        _remove(here, api, [name])
    names = [f"machine-{number}" for number in range(8)]
    together = measure(lambda: _start(here, api, names))
    image = images.name_in(here, images.SHELL)
    for name in names:
        api.create(pods.make(name, "default", image, "sleep 10000", node=name))
    for name in names:
        _wait_for(api, name, "Running")
    memory = [components.usage(machine.group_of(here, n)).memory_bytes / _MEBIBYTE for n in names]
    seconds = measure(lambda: _remove(here, api, names))
    notes.append(f"eight machines were removed in {seconds:.1f} s, each with a running pod")
    return [
        Figure("a machine joins", Spread.of(joins), "s", at_most=5),
        Figure("eight machines join", Spread.of([together]), "s"),
        Figure("memory of a machine with a pod", Spread.of(memory), "MiB", at_most=250),
    ]


def _start(here: Place, api: Api, names: list[str]) -> None:
    for name in names:
        machine.start(here, name, size_of("m6a.large"))
    for name in names:
        api.wait(f"{name} to join", _readiness(api, name), poll_seconds=0.05)


def _readiness(api: Api, name: str) -> Callable[[], bool]:
    def check() -> bool:
        node = api.get("Node", name)
        return node is not None and is_ready(node)

    return check


def _remove(here: Place, api: Api, names: list[str]) -> None:
    for name in names:
        machine.stop(here, name)
        api.delete("Node", name)
        api.delete("Pod", name, "default", grace_seconds=0)


def _wait_for(api: Api, name: str, phase: str) -> Object:
    pod: Object = api.wait(
        f"pod {name} to be {phase}",
        lambda: pods.phase(p := api.get("Pod", name, "default")) == phase and p,
        180,
        poll_seconds=0.05,
    )
    return pod


def _follow(here: Place, api: Api, pod: Object, times: _Times) -> str:
    """Sends a pod on its way and takes the time of each step; returns its machine's name."""
    name = pod["metadata"]["name"]
    clock = time.time
    created = clock()
    api.create(pod)
    node = api.wait(
        "the pod's machine",
        lambda: (p := api.get("Pod", name, "default")) and p["spec"].get("nodeName"),
        180,
        poll_seconds=0.05,
    )
    scheduled = clock()
    _wait_for(api, name, "Succeeded")
    ended = clock()
    life = record.read(here)[node]
    assert life.bought
    assert life.started
    assert life.joined
    times.add("pod created to machine bought", life.bought.timestamp() - created)
    times.add("bought to booted", (life.started - life.bought).total_seconds())
    times.add("booted to ready", (life.joined - life.started).total_seconds())
    times.add("ready to pod assigned", scheduled - life.joined.timestamp())
    times.add("assigned to ended (pull, start, an empty job)", ended - scheduled)
    times.add("pod created to ended", ended - created)
    return str(node)


def _gone(here: Place, name: str) -> float:
    while name in machine.names(here):
        time.sleep(0.05)
    return time.time()


def _way_by_karpenter(here: Place, api: Api, times: int) -> list[Figure]:
    measured = _Times()
    requirement = {"key": "bench/run", "operator": "Exists"}
    api.apply(karpenter.node_pool("bench", requirements=[requirement]))
    image = images.name_in(here, images.SHELL)
    for number in range(times):
        name = f"karpenter-{number}"
        pod = pods.make(name, "default", image, "true", select={"bench/run": name})
        node = _follow(here, api, pod, measured)
        ended = time.time()
        for claim in api.list("NodeClaim", api_version=_CLAIMS):
            api.delete("NodeClaim", claim["metadata"]["name"], api_version=_CLAIMS)
        measured.add("claim deleted to machine gone", _gone(here, node) - ended)
    api.delete("NodePool", "bench", api_version=_CLAIMS)
    return measured.figures("Karpenter: ")


def _way_by_autoscaler(here: Place, api: Api, times: int, notes: list[str]) -> list[Figure]:
    try:
        found.find(aws.AUTOSCALER)
    except MissingProgramError:
        return []
    measured = _Times()
    taints = {"bench/group": "bench:NoSchedule"}
    group = aws.Group("bench", "m6a.large", labels={"bench/group": "bench"}, taints=taints)
    aws.make_group(here, group)
    components.stop(here, aws.AUTOSCALER)
    aws.start_autoscaler(here)
    image = images.name_in(here, images.SHELL)
    for number in range(times):
        pod = pods.make(
            f"asg-{number}", "default", image, "true",
            select={"bench/group": "bench"}, tolerate=["bench/group"],
        )  # fmt: skip
        node = _follow(here, api, pod, measured)
        ended = time.time()
        measured.add("pod ended to machine gone", _gone(here, node) - ended)
    aws.delete_group(here, "bench")
    notes.append(
        "the cluster-autoscaler lists its groups' instances once a minute: a machine that joined "
        "since is not given back before the next list"
    )
    return measured.figures("Auto Scaling group: ")


def _rounds(times: int, notes: list[str]) -> list[Figure]:
    """Up, work, kill -9 of a random component, down: is anything left?"""
    left: list[str] = []
    stopped = []
    choice = random.Random(1)
    for number in range(times):
        here = cluster.up(_NAME, lambda _: None)
        with Api(here.admin) as api:
            _start(here, api, ["worker"])
            image = images.name_in(here, images.SHELL)
            api.create(pods.make("work", "default", image, "true", node="worker"))
            _wait_for(api, "work", "Succeeded")
        _kill_any(here, choice)
        stopped.append(measure(lambda: cluster.down(_NAME)))
        left += cluster.leftovers(here)
        programs.say(f"round {number + 1} of {times}: {len(left)} things left")
    notes.append(f"left after {times} rounds: {left or 'nothing'}")
    return [
        Figure("down, with a machine and a dead component", Spread.of(stopped), "s", at_most=15),
        Figure("things left after all rounds", Spread.of([len(left)]), "", at_most=0),
    ]


def _kill_any(here: Place, choice: random.Random) -> None:
    """Kills a component, or a program of the machine."""
    victims = [components.group_of(here, name) for name in components.names(here)]
    victims += [f"{machine.group_of(here, 'worker')}/{name}" for name in machine.PROGRAMS]
    cgroups.kill(choice.choice(victims))
