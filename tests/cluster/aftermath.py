"""What must hold after rounds, whatever went wrong in them, and what is measured of them.

Enters: an Arena. Leaves: nothing, or an assertion that fails and says what was found; and in the
end how many machines there were, how long each was paid for without need, and how far each bill is
from the testbed's own record.
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from piecework import clock
from piecework.ledger.charges import RULES, Bill, bill_machine
from piecework.ledger.events import Outcome
from piecework.ledger.occupancy import Machine
from piecework.ledger.store import open_ledger
from piecework.plan import labels
from testbed import aws, record
from testbed.record import Life
from tests.cluster import container_records
from tests.cluster.container_records import Ran
from tests.cluster.rounds import CLAIMS, Arena, patiently

MINIMUM = timedelta(seconds=RULES["aws-ec2-linux"].minimum_seconds)
#: Kubernetes cuts its times to whole seconds, on both ends of a machine's life.
TOLERANCE_SECONDS = 2.0
#: Where a machine vanishes by itself, that is known when its cluster has seen it.
HARMED_SECONDS = 20.0
#: Where one vanishes before it has joined, only its time to join (`rounds.limits`) ends that on
#: Karpenter, whose keeper does not ask the cloud. All of it is within the minimum that is paid.
UNJOINED_SECONDS = 32.0


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What was measured: machines, containers on them, and how many of those found theirs there."""

    machines: int
    containers: int
    hand_overs: int
    #: Machines on which nothing ever ran.
    unused: int
    #: From the end of its last work, or of its minimum where that is later, to its return.
    unneeded_seconds: tuple[float, ...]
    #: How much longer a machine was billed than it was paid for.
    billed_beyond_seconds: tuple[float, ...]
    #: The machine that was paid for longest without need, and why it went.
    longest: str

    def __str__(self) -> str:
        return (
            f"{self.machines} machines, {self.containers} containers, {self.hand_overs} of them "
            f"by hand-over; seconds paid without need: {_spread(self.unneeded_seconds)} "
            f"({self.longest}); "
            f"seconds billed beyond the record: {_spread(self.billed_beyond_seconds)}"
        )


def check_now(arena: Arena) -> None:
    """What holds at any time: one run on a machine at a time, no false success, a ledger that
    adds up.
    """
    ran = container_records.read(arena.here, arena.submitters)
    faults = container_records.find_faults(ran)
    assert not faults, faults
    check_outcomes(arena, ran)
    with open_ledger(arena.ground.settings.ledger_url) as ledger:
        found = ledger.verify()
    assert found.ok, found


def check_outcomes(arena: Arena, ran: Iterable[Ran]) -> None:
    """A success is one whose container ran for as long as it was to, and was to succeed."""
    by_pod = {(each.namespace, each.pod): each for each in ran}
    for attempt, known in arena.ground.timeline().attempts.items():
        asked = arena.asked.get(attempt)
        if asked is None or known.outcome is not Outcome.SUCCESS:
            continue
        container = by_pod.get((asked.namespace, labels.pod_name(attempt)))
        assert container is not None, f"{attempt} is a success, and no runtime ran it"
        lasted = (container.end - container.asked).total_seconds()
        assert asked.exit_code == 0, f"{attempt} is a success, and was to fail"
        assert lasted >= asked.seconds - 0.1, f"{attempt} is a success after {lasted:.1f} s"


def settle(arena: Arena, seconds: float = 180) -> Aftermath:
    """Waits until nothing is left, and holds every bill against the testbed's record."""
    arena.api.wait("nothing to be left", lambda: not _read_all(arena), seconds, 0.5)
    arena.api.wait("the ledger to know it", lambda: not _unknown(arena), 30, 0.5)
    check_now(arena)
    return _measure(arena)


def _read_all(arena: Arena) -> list[str]:
    """Says of all that has ended that it was read; what is left nevertheless."""
    for attempt, asked in arena.asked.items():
        runner = arena.submitter(asked.namespace).runner
        patiently(lambda runner=runner, attempt=attempt: runner.acknowledge(attempt))  # type: ignore[misc]  # bound here
    return leftovers(arena)


def leftovers(arena: Arena) -> list[str]:
    """What of the pool's runs and machines is there; in words."""
    mine = f"{labels.POOL}={arena.made.name}"
    found = [
        f"pod {pod['metadata']['name']}, held by {pod['metadata'].get('finalizers')}"
        for namespace in arena.submitters
        for pod in arena.api.list("Pod", namespace)
    ]
    found += [f"node {node['metadata']['name']}" for node in arena.api.list("Node", selector=mine)]
    if arena.kind == "karpenter":
        claims = arena.api.list("NodeClaim", api_version=CLAIMS, selector=mine)
        found += [f"claim {claim['metadata']['name']}" for claim in claims]
    for group in arena.groups:
        found += [f"instance {name} of {group}" for name in aws.instances(arena.here, group)]
    return found + [f"machine {name}" for name in arena.machines()]


def _unknown(arena: Arena) -> list[str]:
    """Machines whose end is not in the ledger."""
    known = arena.ground.timeline().machines.values()
    open_ones = [machine.id for machine in known if machine.gone_at is None]
    found = _find(arena, known)
    times = Counter(machine.id for machine in found.values() if machine is not None)
    unseen = [name for name, m in found.items() if m is None or times[m.id] > 1]
    return open_ones + unseen


def _find(arena: Arena, machines: Iterable[Machine]) -> dict[str, Machine | None]:
    """The testbed's machines, each with the one that the ledger has of it."""
    known = {machine.id: machine for machine in machines}
    return {
        name: known.get(name)
        or next((m for m in known.values() if arena.ground.is_of(name, m)), None)
        for name in _lives(arena)
    }


def _lives(arena: Arena) -> dict[str, Life]:
    return {n: life for n, life in record.read(arena.here).items() if arena.is_mine(n)}


def _measure(arena: Arena) -> Aftermath:
    ran = container_records.read(arena.here, arena.submitters)
    found = _find(arena, arena.ground.timeline().machines.values())
    unneeded, beyond, wrong = {}, [], []
    for name, life in _lives(arena).items():
        known = found[name]
        assert known is not None, name
        what = f"{name}, {known.gone_cause}"
        unneeded[what] = _unneeded_seconds(life, [each for each in ran if each.machine == name])
        bill = bill_machine(known, clock.now())
        assert bill is not None, known
        seconds = _beyond(bill, life)
        beyond.append(seconds)
        if abs(seconds) > _tolerance(arena, name, known):
            wrong.append(f"{name} was billed for {seconds:+.1f} s beyond its record: {known}")
    assert not wrong, wrong
    per_machine = Counter(each.machine for each in ran)
    hand_overs = sum(count - 1 for count in per_machine.values())
    unused = len(beyond) - len(per_machine)
    return Aftermath(
        machines=len(beyond),
        containers=len(ran),
        hand_overs=hand_overs,
        unused=unused,
        unneeded_seconds=tuple(unneeded.values()),
        billed_beyond_seconds=tuple(beyond),
        longest=max(unneeded, key=lambda what: unneeded[what], default="none"),
    )


def _tolerance(arena: Arena, name: str, known: Machine) -> float:
    if known.id == name and arena.kind == "karpenter":
        return HARMED_SECONDS  # no claim says when it was bought and returned
    if name in arena.harmed and known.gone_cause == "never-joined":
        return UNJOINED_SECONDS
    was_harmed = name in arena.harmed or known.gone_cause in ("interrupted", "lost")
    return HARMED_SECONDS if was_harmed else TOLERANCE_SECONDS


def _beyond(bill: Bill, life: Life) -> float:
    """Of a machine that was given back: how much longer its meter ran than it was paid for."""
    bought, returned = _paid(life)
    return (bill.until - bill.start) / 1_000_000 - (returned - bought).total_seconds()


def _paid(life: Life) -> tuple[datetime, datetime]:
    bought, returned = life.bought or life.started, life.returned or life.stopped
    assert bought, life
    assert returned, life
    return bought, returned


def _unneeded_seconds(life: Life, ran: Iterable[Ran]) -> float:
    bought, returned = _paid(life)
    needed = max([bought + MINIMUM, *(each.end for each in ran)])
    return max(0.0, (returned - needed).total_seconds())


def _spread(seconds: tuple[float, ...]) -> str:
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return (
        f"median {statistics.median(ordered):.1f}, 95% {high:.1f}, "
        f"{ordered[0]:.1f} to {ordered[-1]:.1f}"
    )


def say(config: pytest.Config, line: str) -> None:
    """Prints a line that is seen although tests' output is not."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{line}", file=sys.stderr, flush=True)
