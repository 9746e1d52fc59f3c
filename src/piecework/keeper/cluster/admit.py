"""Whose turn it is: opens gates in order, within the limits on machines and on money per hour.

Pure. Order is strict: priority, then age; the first in a pool takes what becomes free, and nobody
smaller overtakes it, so nobody starves. Whoever only waits for its own team's limit, for Kueue, or
for the rest of its gang holds nobody else up. An idle machine that fits is handed over instead of
letting one be bought; one that does not fit and is in the way is given back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from piecework.keeper.cluster.actions import Action, Admit, Release, TellWaiting
from piecework.keeper.cluster.followers import admit_followers
from piecework.keeper.cluster.queue import Held, Taken, count_taken, fits
from piecework.keeper.cluster.snapshot import AttemptSeen, Request, Snapshot
from piecework.keeper.cluster.wording import describe_purchase
from piecework.machines.provider import MachineSeen
from piecework.spec.pool import Pool
from piecework.spec.team import Team

#: Places in the queue are told exactly up to here, then in these steps: thousands of pods shall not
#: be written to because one run has started.
_STEPS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(slots=True)
class _Round:
    """What one tick's admission has decided so far."""

    snapshot: Snapshot
    taken: Taken
    actions: list[Action] = field(default_factory=list)
    #: Why a pool's first run waits, and how many wait behind it.
    blocked: dict[str, str] = field(default_factory=dict)
    behind: dict[str, int] = field(default_factory=dict)


def admit(
    snapshot: Snapshot, ending: Collection[str] = (), leaving: Collection[str] = ()
) -> list[Action]:
    """Admissions, idle machines that are given back to make room, and why others wait.

    `ending` are attempts that are being ended, `leaving` machines that are being given back.
    """
    state = _Round(snapshot, count_taken(snapshot, leaving))
    left = [attempt for name, attempt in snapshot.attempts.items() if name not in ending]
    for attempt in left:
        if attempt.followers:
            state.actions += admit_followers(snapshot, state.taken, attempt)
    for attempt in in_order(left):
        pool = snapshot.pools.get(attempt.first.pool)
        if pool is None:
            continue
        if attempt.admitted_at is not None:  # a keeper died between two pods of a gang
            state.actions.append(Admit(attempt, attempt.admitted_at))
            continue
        reason = _consider(state, attempt, pool)
        if reason is not None:
            state.actions += tell(snapshot, attempt, reason)
    return state.actions


def in_order(attempts: Iterable[AttemptSeen]) -> list[AttemptSeen]:
    """The attempts with a closed gate that nobody has ended, in the order of their turn."""
    waiting = [
        attempt
        for attempt in attempts
        if attempt.end is None and any(pod.gated and pod.deleting_at is None for pod in attempt.own)
    ]
    return sorted(waiting, key=_turn)


def _turn(attempt: AttemptSeen) -> tuple[int, float, str]:
    priority = 0 if attempt.request is None else attempt.request.priority
    return -priority, attempt.queued_at.timestamp(), attempt.id


def _consider(state: _Round, attempt: AttemptSeen, pool: Pool) -> str | None:
    """Admits the attempt, or says why it waits."""
    request = attempt.request
    if request is None:
        return "its request cannot be read: the annotation piecework.dev/request is missing or torn"
    apart = _waits_alone(attempt, request, pool) or _may_still_run(state.snapshot, attempt)
    if apart is not None:
        return apart
    if pool.name in state.blocked:
        state.behind[pool.name] += 1
        return f"{state.blocked[pool.name]}; {_place(state.behind[pool.name])}"
    handed = [m for m in state.taken.idle.get(pool.name, ()) if fits(attempt, m)]
    handed = sorted(handed, key=lambda m: _preference(state.snapshot, attempt, m))
    handed = handed[: attempt.machines]
    buys = attempt.machines - len(handed)
    team = state.snapshot.teams.get(request.team or "")
    if team is not None:
        full = _beyond_team(team, state.taken.team(team.name), request, attempt.machines)
        if full is not None:
            return full
    full = _beyond_pool(pool, state.taken.pool(pool.name), request, buys)
    if full is not None:
        state.blocked[pool.name] = full
        state.behind[pool.name] = 0
        _make_room(state, pool, request, handed, buys)
        return full
    state.taken.take_idle(handed)
    state.taken.pool(pool.name).add(buys, request.usd_per_hour)
    if request.team:
        state.taken.team(request.team).add(attempt.machines, request.usd_per_hour)
    waits = len(handed) < attempt.count
    told = describe_purchase(pool.provider, request.instance_type) if waits else None
    state.actions.append(Admit(attempt, state.snapshot.now, tuple(handed), told))
    return None


def _waits_alone(attempt: AttemptSeen, request: Request, pool: Pool) -> str | None:
    """Why it waits, where that holds nobody else up."""
    queue = next((pod.kueue for pod in attempt.own if pod.kueue is not None), None)
    if queue is not None:
        return f"waiting for Kueue's queue {queue}"
    if len(attempt.own) < attempt.count:
        return f"{len(attempt.own)} of the {attempt.count} pods of its gang are there"
    if pool.max_machines is not None and attempt.machines > pool.max_machines:
        return (
            f"it needs {attempt.machines} machines, and pool {pool.name} may have "
            f"{pool.max_machines} at a time"
        )
    most = pool.max_usd_per_hour
    if most is None:
        return None
    if request.usd_per_hour is None:
        return (
            f"the price of {request.instance_type or 'its machine'} is unknown, and pool "
            f"{pool.name} has a limit on money per hour; state it in the pool's `prices`"
        )
    cost = attempt.machines * request.usd_per_hour
    if cost > most:
        return (
            f"its machines cost {_usd(cost)} USD per hour, and pool {pool.name} may cost "
            f"{_usd(most)}"
        )
    return None


def _may_still_run(snapshot: Snapshot, attempt: AttemptSeen) -> str | None:
    """Why an attempt must wait for the machine of the one before: it was lost, not seen to end.

    A machine that is cut off goes on working, and no run may run twice at a time.
    """
    for machine in snapshot.silent:
        mine = snapshot.run_of(machine) == attempt.first.run
        others = snapshot.by_run.get(attempt.first.run, ())
        nodes = {pod.node for other in others if other is not attempt for pod in other.pods}
        if mine or machine.node in nodes:
            return f"the machine of its last attempt, {machine.id}, has not ended yet"
    return None


def _beyond_team(team: Team, held: Held, request: Request, count: int) -> str | None:
    if team.max_machines is not None and held.machines + count > team.max_machines:
        return f"team {team.name} is at its limit of {_machines(team.max_machines)}"
    return _beyond_money(f"team {team.name}", team.max_usd_per_hour, held, request, count)


def _beyond_pool(pool: Pool, held: Held, request: Request, buys: int) -> str | None:
    if buys == 0:
        return None
    if pool.max_machines is not None and held.machines + buys > pool.max_machines:
        return f"pool {pool.name} is at its limit of {_machines(pool.max_machines)}"
    return _beyond_money(f"pool {pool.name}", pool.max_usd_per_hour, held, request, buys)


def _beyond_money(
    whose: str, most: Decimal | None, held: Held, request: Request, count: int
) -> str | None:
    if most is None:
        return None
    if request.usd_per_hour is None:
        return f"the price of its machine is unknown, and {whose} has a limit on money per hour"
    if held.usd_per_hour + count * request.usd_per_hour > most:
        return f"{whose} is at its limit of {_usd(most)} USD per hour"
    return None


def _make_room(
    state: _Round, pool: Pool, request: Request, handed: list[MachineSeen], buys: int
) -> None:
    """Gives idle machines back that are in the way of the first in the queue."""
    held = state.taken.pool(pool.name)
    others = [m for m in state.taken.idle.get(pool.name, ()) if m not in handed]
    for machine in sorted(others, key=lambda m: (m.launched_at or state.snapshot.now, m.id)):
        if _beyond_pool(pool, held, request, buys) is None:
            return
        reason = "its place was needed for a run that it does not fit"
        state.actions.append(Release(machine, state.snapshot.now, reason))
        held.machines -= 1
        held.usd_per_hour -= state.snapshot.prices.get(machine.id) or Decimal(0)
        state.taken.take_idle([machine])


def _preference(
    snapshot: Snapshot, attempt: AttemptSeen, machine: MachineSeen
) -> tuple[bool, float, str]:
    """Its own run's machine first, then the one whose minimum has the most time left."""
    launched = machine.launched_at.timestamp() if machine.launched_at else 0.0
    return snapshot.run_of(machine) != attempt.first.run, -launched, machine.id


def tell(snapshot: Snapshot, attempt: AttemptSeen, reason: str) -> list[TellWaiting]:
    """Writes the reason on the attempt's first pod, unless it says so already.

    Where only the place in the queue has changed, it waits since the same time.
    """
    known = attempt.first.waiting
    if known is not None and known.reason == reason:
        return []
    same = known is not None and known.reason.partition(";")[0] == reason.partition(";")[0]
    since = known.since if known is not None and same else snapshot.now
    number = 0 if known is None else known.number + 1
    return [TellWaiting(attempt.first, reason, since, number)]


def _place(behind: int) -> str:
    if behind == 1:
        return "1 run is before it"
    if behind <= _STEPS[0]:
        return f"{behind} runs are before it"
    return f"more than {max(step for step in _STEPS if step < behind)} runs are before it"


def _machines(count: int) -> str:
    return f"{count} machine" if count == 1 else f"{count} machines"


def _usd(amount: Decimal) -> str:
    return f"{amount.normalize():f}"
