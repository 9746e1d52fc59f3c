"""What the machines of a cluster are taken by at one moment: counts and money, by pool and by team.

Pure. Enters: a snapshot. Leaves: for each pool how many machines it has or has been promised, what
they cost per hour, and which of them are idle and could be handed over; for each team the same of
what its runs hold. Admission adds to it what it admits, so that a tick never admits too much.

A run whose engine asks for machines while it runs has been promised all of them at its admission:
those that it does not hold yet count as if it did, and idle ones of its own are nobody else's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen, Snapshot
from piecework.machines.provider import MachineSeen


@dataclass(slots=True)
class Held:
    """Machines, and what they cost per hour. `unpriced` counts those whose price is unknown."""

    machines: int = 0
    usd_per_hour: Decimal = Decimal(0)
    unpriced: int = 0

    def add(self, machines: int, usd_per_hour: Decimal | None) -> None:
        """Takes note of some machines of one price each."""
        self.machines += machines
        if usd_per_hour is None:
            self.unpriced += machines
        else:
            self.usd_per_hour += machines * usd_per_hour


@dataclass(slots=True)
class Taken:
    """What is taken at the moment. Changes while a tick admits."""

    pools: dict[str, Held] = field(default_factory=dict)
    teams: dict[str, Held] = field(default_factory=dict)
    idle: dict[str, list[MachineSeen]] = field(default_factory=dict)
    #: Machines without a pod that are kept for the followers of an attempt, by the attempt's id.
    kept: dict[str, list[MachineSeen]] = field(default_factory=dict)

    def pool(self, name: str) -> Held:
        return self.pools.setdefault(name, Held())

    def team(self, name: str) -> Held:
        return self.teams.setdefault(name, Held())

    def take_idle(self, machines: Iterable[MachineSeen]) -> None:
        """These are idle no more."""
        for machine in machines:
            self.idle[machine.pool].remove(machine)


def count_taken(snapshot: Snapshot, leaving: Collection[str] = ()) -> Taken:
    """What is taken, and what is idle; machines that are `leaving` are not."""
    taken = Taken()
    alive = [m for m in snapshot.machines.values() if m.gone_at is None]
    for machine in alive:
        taken.pool(machine.pool).add(1, snapshot.prices.get(machine.id))
    for attempt in snapshot.attempts.values():
        request = attempt.request
        if request is not None and request.team:
            taken.team(request.team).add(_held_by(attempt), request.usd_per_hour)
    for name, pool in snapshot.pools.items():
        free = [m for m in alive if m.pool == name and is_free(snapshot, m)]
        waiting = [
            pod
            for pods in snapshot.unbound.values()
            for pod in pods
            if pod.pool == name and not pod.follower
        ]
        if pool.provider == "karpenter":
            idle, promised = _match_by_run(snapshot, free, waiting)
        else:
            idle, promised = _match_by_type(free, waiting)
        for pod in promised:
            price = None if pod.request is None else pod.request.usd_per_hour
            taken.pool(name).add(1, price)
        for attempt in snapshot.growing.get(name, ()):
            idle = _keep_for(snapshot, taken, attempt, idle)
        usable = [m for m in idle if is_usable(snapshot, m) and m.id not in leaving]
        taken.idle[name] = usable
    return taken


def _held_by(attempt: AttemptSeen) -> int:
    """How many machines an attempt has been given or promised."""
    own = sum(pod.is_live and not pod.gated for pod in attempt.own)
    return own + attempt.machines - attempt.count if own else 0


def _keep_for(
    snapshot: Snapshot, taken: Taken, attempt: AttemptSeen, idle: list[MachineSeen]
) -> list[MachineSeen]:
    """Keeps idle machines for an attempt's followers, and counts those that it may still get.

    Returns what is left. Those of Karpenter are its run's already, or are handed over to it later.
    """
    nodes = {pod.node for pod in attempt.pods if pod.is_live and pod.node is not None}
    coming = sum(pod.is_live and pod.node is None for pod in attempt.own)
    missing = max(0, attempt.machines - len(nodes) - coming)
    own = [
        machine
        for machine in idle
        if (
            snapshot.run_of(machine) == attempt.first.run
            if machine.provider == "karpenter"
            else fits(attempt, machine)
        )
    ][:missing]
    taken.kept[attempt.id] = own
    price = None if attempt.request is None else attempt.request.usd_per_hour
    taken.pool(attempt.first.pool).add(missing - len(own), price)
    return [machine for machine in idle if machine not in own] if own else idle


def is_free(snapshot: Snapshot, machine: MachineSeen) -> bool:
    """Whether it has no live pod, and is not being given back. It may still boot."""
    return machine.state not in ("leaving", "gone") and not snapshot.pods_on(machine)


def is_usable(snapshot: Snapshot, machine: MachineSeen) -> bool:
    """Whether a pod could start on it now.

    Karpenter is at times slow to say that a machine is initialized, when it has run pods already.
    """
    node = snapshot.node_of(machine)
    return (
        machine.state in ("joined", "ready")
        and machine.interrupted_at is None
        and node is not None
        and node.ready_at is not None
        and node.leaving_at is None
        and not node.notice
        and node.gpus >= snapshot.expected_gpus.get(machine.instance_type or "", 0)
    )


def fits(attempt: AttemptSeen, machine: MachineSeen) -> bool:
    """Whether an attempt may run on a machine."""
    request = attempt.request
    if request is None or machine.pool != attempt.first.pool:
        return False
    spot = request.raw.get("spot")
    if (spot == "never" and machine.spot) or (spot == "only" and not machine.spot):
        return False
    return not request.types or machine.instance_type in request.types


def _match_by_run(
    snapshot: Snapshot, free: list[MachineSeen], waiting: list[PodSeen]
) -> tuple[list[MachineSeen], list[PodSeen]]:
    """Machines that no waiting pod selects, and waiting pods for which there is no machine yet."""
    of_run: dict[str, list[MachineSeen]] = {}
    for machine in free:
        of_run.setdefault(snapshot.run_of(machine) or "", []).append(machine)
    promised = []
    for pod in waiting:
        machines = of_run.get(pod.run)
        if machines:
            machines.pop()
        else:
            promised.append(pod)
    return [machine for machines in of_run.values() for machine in machines], promised


def _match_by_type(
    free: list[MachineSeen], waiting: list[PodSeen]
) -> tuple[list[MachineSeen], list[PodSeen]]:
    """The same where a waiting pod may take any machine of its types, ready ones first."""
    left = sorted(free, key=lambda m: (m.ready_at is None, m.id))
    promised = []
    for pod in waiting:
        types = () if pod.request is None else pod.request.types
        found = next((m for m in left if not types or m.instance_type in types), None)
        if found is None:
            promised.append(pod)
        else:
            left.remove(found)
    return left, promised
