"""A soak: rounds of a few runs and one fault, each made from a seed, and many short runs at once.

Enters: an Arena and a seed. Leaves: nothing, where every run ended as it was to end; what else must
hold is checked by tests.cluster.aftermath. The same seed makes the same round, as far as a cluster
lets it: what is hit depends on what is there at that moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from piecework.ledger.events import Outcome
from piecework.ledger.occupancy import Attempt
from testbed import components, faults, images, wishes
from testbed.errors import TestbedError
from tests.cluster.rounds import LARGER, Arena, asleep, kill, patiently

#: How often a run is tried that something happened to.
_TRIES = 4
_KUBERNETES = ("etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens in a round. `disrupts`: runs may be interrupted by it, and only then.

    `happen` gets the attempts of the round that are on their way, and returns those that it ended
    or added, with how they may end.
    """

    name: str
    happen: Callable[[Arena, Random, list[str]], dict[str, set[Outcome]]]
    disrupts: bool = False


def play(arena: Arena, seed: int) -> str:
    """One round. Returns in words what happened."""
    choice = Random(seed)
    fault = choice.choice(FAULTS)
    attempts = []
    for _ in range(choice.randint(2, 4)):
        machine = LARGER if choice.random() < 0.3 else {"cpu": 1, "memory": "2Gi"}
        code = 3 if choice.random() < 0.2 else 0
        attempts.append(arena.submit(choice.uniform(0.5, 6), code, machine=machine))
        time.sleep(choice.uniform(0, 1))
    time.sleep(choice.uniform(0, 6))
    meant = fault.happen(arena, choice, attempts)
    assert arena.keeper
    tried = [_follow(arena, attempt, fault, meant.get(attempt)) for attempt in attempts]
    wishes.clear(arena.here)
    return f"{arena.kind}, seed {seed}: {fault.name}; {', '.join(tried)}"


def _follow(arena: Arena, attempt: str, fault: Fault, meant: set[Outcome] | None) -> str:
    """Waits for a run's end, trying again what was interrupted; returns how it ended, in words."""
    for number in range(1, _TRIES + 1):
        ended = arena.ended(attempt)
        if meant is not None and ended.outcome in meant:
            break
        if ended.outcome not in (Outcome.INTERRUPTED, Outcome.NEVER_STARTED):
            _check(arena, attempt, ended)
            break
        assert fault.disrupts, (fault.name, ended)
        assert number < _TRIES, (fault.name, ended)
        attempt = arena.again(attempt)
    return f"{ended.outcome}" + (f" at try {number}" if number > 1 else "")


def _check(arena: Arena, attempt: str, ended: Attempt) -> None:
    code = arena.asked[attempt].exit_code
    outcome = Outcome.ERROR if code else Outcome.SUCCESS
    assert (ended.outcome, ended.exit_code) == (outcome, code), ended


def stress(arena: Arena, runs: int, longest_seconds: float, seed: int) -> None:
    """Asks for many short runs at once, in all of the arena's namespaces in turns."""
    choice = Random(seed)
    namespaces = list(arena.submitters)
    waiting = [
        arena.submit(
            choice.uniform(1, longest_seconds), namespace=namespaces[number % len(namespaces)]
        )
        for number in range(runs)
    ]
    until = time.monotonic() + 60 + runs * (longest_seconds + 5)
    while waiting:
        assert time.monotonic() < until, f"{len(waiting)} runs have not ended"
        for attempt in list(waiting):
            status = arena.status(attempt)
            if status is not None and status.state == "ended":
                assert status.outcome is Outcome.SUCCESS, status
                runner = arena.submitter(arena.asked[attempt].namespace).runner
                patiently(lambda runner=runner, attempt=attempt: runner.acknowledge(attempt))  # type: ignore[misc]  # bound here
                waiting.remove(attempt)
        time.sleep(0.2)


def _keeper_dies(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    kill(arena.keeper)
    time.sleep(choice.uniform(0, 5))
    return {}


def _keeper_hangs(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    with asleep(arena.keeper):
        time.sleep(choice.uniform(1, 14))
    return {}


def _both_keepers_die(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    second = arena.second_keeper()
    kill(arena.keeper)
    time.sleep(choice.uniform(0, 3))
    kill(second)
    return {}


def _component_dies(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    component = choice.choice([*_KUBERNETES, arena.autoscaler])
    faults.kill(arena.here, component)
    time.sleep(choice.uniform(0, 4))
    faults.restart(arena.here, component)
    return {}


def _autoscaler_hangs(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    components.freeze(arena.here, arena.autoscaler)
    time.sleep(choice.uniform(1, 8))
    components.thaw(arena.here, arena.autoscaler)
    return {}


def _machine_dies(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    if machines := arena.machines():
        with suppress(TestbedError):  # it may be given back at this moment
            arena.kill_machine(choice.choice(machines))
    return {}


def _spot_is_taken(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    if machines := arena.machines():
        name = choice.choice(machines)
        arena.harmed.add(name)
        with suppress(TestbedError):
            faults.interrupt(arena.here, name, choice.uniform(0, 3))
    return {}


def _network_is_cut(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    if machines := arena.machines():
        name = choice.choice(machines)
        with suppress(TestbedError):
            faults.cut_network(arena.here, name)
            time.sleep(choice.uniform(1, 12))
            faults.mend_network(arena.here, name)
    return {}


def _pod_is_deleted(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    if pod := arena.pod(choice.choice(attempts)):
        arena.api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"])
    return {}


def _run_is_cancelled(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    attempt = choice.choice(attempts)
    arena.cancel(attempt)
    return {attempt: {Outcome.CANCELLED}}


def _machine_never_joins(
    arena: Arena, choice: Random, attempts: list[str]
) -> dict[str, set[Outcome]]:
    for name in arena.buys_as:
        faults.never_join(arena.here, name)
    attempts.append(arena.submit(1, machine=LARGER))
    return {}


def _machines_boot_slowly(
    arena: Arena, choice: Random, attempts: list[str]
) -> dict[str, set[Outcome]]:
    for name in arena.buys_as:
        faults.slow_boot(arena.here, name, choice.uniform(2, 6))
    attempts.append(arena.submit(1, machine=LARGER))
    return {}


def _nothing_in_stock(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    with arena.out_of_stock("m6a.large", "m6a.xlarge"):
        attempts.append(arena.submit(1, machine=LARGER))
        time.sleep(choice.uniform(1, 8))
    return {}


def _image_is_missing(arena: Arena, choice: Random, attempts: list[str]) -> dict[str, set[Outcome]]:
    attempt = arena.submit(1, image=images.name_in(arena.here, "missing:1"))
    attempts.append(attempt)
    return {attempt: {Outcome.NEVER_STARTED}}


def _run_meets_give_back(
    arena: Arena, choice: Random, attempts: list[str]
) -> dict[str, set[Outcome]]:
    """Runs that come one by one around the moment when idle machines go."""
    for attempt in attempts:
        arena.over(attempt)
    for _ in range(3):
        attempts.append(arena.submit(0.5))
        time.sleep(choice.uniform(3, 20))
    return {}


FAULTS = (
    Fault("the keeper was killed", _keeper_dies),
    Fault("the keeper stood still", _keeper_hangs),
    Fault("both keepers were killed", _both_keepers_die),
    Fault("a component was killed", _component_dies),
    Fault("the autoscaler stood still", _autoscaler_hangs),
    Fault("a machine died", _machine_dies, disrupts=True),
    Fault("a spot machine was taken away", _spot_is_taken, disrupts=True),
    Fault("the network was cut", _network_is_cut),
    Fault("somebody deleted a pod", _pod_is_deleted, disrupts=True),
    Fault("a run was cancelled", _run_is_cancelled),
    Fault("a machine never joined", _machine_never_joins),
    Fault("machines booted slowly", _machines_boot_slowly),
    Fault("nothing was in stock", _nothing_in_stock),
    Fault("an image was missing", _image_is_missing),
    Fault("runs came as machines went", _run_meets_give_back),
)
