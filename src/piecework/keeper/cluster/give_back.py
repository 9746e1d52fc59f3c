"""Which machines are given back now, and which may be kept a little for the next run.

Pure. A machine costs its minimum anyway, so an idle one is kept until just before that is used up
(or as long as the pool's `keep` says after its last run), and goes then so that its meter stops at
the minimum's end; one whose run ended later than that goes at once. Before a machine goes, whoever
reads its run's log gets a moment to read it to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from piecework.keeper.cluster.actions import Action, GiveBack, NoteInterruption, Release
from piecework.keeper.cluster.queue import is_free
from piecework.keeper.cluster.snapshot import PodSeen, Snapshot
from piecework.ledger.charges import RULES
from piecework.machines.provider import MachineSeen

#: How long Karpenter takes from a NodeClaim's deletion to the instance's end: it drains a node for
#: at least 5 s, and looks once a second.
DRAIN = timedelta(seconds=6)
#: How long a group's machine takes from the decision to its end: the pause, and a look or two.
PARTING = timedelta(seconds=3)
#: How long the cluster-autoscaler gets to give a machine of a group back by itself.
AUTOSCALER = timedelta(seconds=10)
#: Between the taint and the fresh look for pods, on machines of groups: as long as the autoscaler
#: waits by the flag that is rendered for it. A scheduler that is slower binds a pod in vain.
PAUSE = timedelta(seconds=2)
#: How long a log may be read after its pod's end, before its machine goes.
LOG = timedelta(seconds=10)
#: How long a run that may have more pods gets to make the first of them, from its start, and to
#: make others in the place of those that have ended.
FIRST_FOLLOWERS = timedelta(seconds=30)
NEXT_FOLLOWERS = timedelta(seconds=10)
#: How long a machine is left alone that nobody was seen to use: its pod may just be bound.
SETTLED = timedelta(seconds=3)


def give_back(snapshot: Snapshot, handed: Iterable[str] = ()) -> list[Action]:
    """Releases and returns. `handed` are ids of machines that admission has just given away."""
    kept = set(handed)
    actions: list[Action] = []
    for machine in snapshot.machines.values():
        if machine.gone_at is None and machine.id not in kept:
            actions += _judge(snapshot, machine)
    return actions


def _judge(snapshot: Snapshot, machine: MachineSeen) -> Iterator[Action]:
    node = snapshot.node_of(machine)
    if node is not None and node.notice and machine.interrupted_at is None:
        yield NoteInterruption(machine, snapshot.now, snapshot.pods_on(machine))
    if machine.released_at is not None:
        if machine.leaving_at is None and _may_go(snapshot, machine, machine.released_at):
            yield GiveBack(machine)
        return
    if machine.leaving_at is not None or not is_free(snapshot, machine):
        return
    if _is_awaited(snapshot, machine):
        return
    at = release_at(snapshot, machine)
    if at is not None and at <= snapshot.now:
        yield Release(machine, snapshot.now, _reason(snapshot, machine))
        if machine.provider == "karpenter":
            yield GiveBack(machine)


def _may_go(snapshot: Snapshot, machine: MachineSeen, released_at: datetime) -> bool:
    """Whether a released machine can end now, which no pod of another run may be bound to."""
    if machine.provider == "karpenter":
        return True
    since = snapshot.now - released_at
    if machine.node is None or since < PAUSE:
        return since >= PAUSE
    # The scheduler may be about to bind one that waits, and not know of the taint yet.
    return since >= AUTOSCALER or not _is_awaited(snapshot, machine)


def release_at(snapshot: Snapshot, machine: MachineSeen) -> datetime | None:
    """When a free machine is to be given back; None while it has not been launched."""
    if machine.launched_at is None:
        return None
    pool = snapshot.pools.get(machine.pool)
    ended = _ended_at(snapshot, machine)
    minimum = timedelta(seconds=RULES[machine.billing].minimum_seconds)
    at = machine.launched_at + minimum - _lead(machine)
    if pool is not None and pool.keep and ended is not None:
        at = max(at, ended + pool.keep)
    for pod in _ended_pods(snapshot, machine):
        if not _log_is_read(snapshot, pod) and pod.over is not None:
            at = max(at, pod.over + LOG)
    if ended is None:
        at = max(at, (machine.ready_at or machine.launched_at) + SETTLED)
    wanted = _wanted_until(snapshot, machine, ended)
    if wanted is not None:
        at = max(at, wanted)
    if machine.provider == "asg":
        # The autoscaler does it by itself; this is for when it does not.
        at = max(at, (ended or machine.ready_at or machine.launched_at) + AUTOSCALER)
    return at


def _lead(machine: MachineSeen) -> timedelta:
    """How much earlier to begin, so that its meter stops at the end of the minimum."""
    if machine.provider == "asg":
        return PARTING
    return DRAIN if machine.joined_at else timedelta(0)


def _is_awaited(snapshot: Snapshot, machine: MachineSeen) -> bool:
    """Whether a pod that is on its way may take the machine."""
    if machine.provider == "karpenter":
        run = snapshot.run_of(machine)
        return run is not None and run in snapshot.unbound
    return any(
        pod.pool == machine.pool
        and (pod.request is None or not pod.request.types
             or machine.instance_type in pod.request.types)
        for pods in snapshot.unbound.values()
        for pod in pods
    )  # fmt: skip


def _wanted_until(
    snapshot: Snapshot, machine: MachineSeen, ended: datetime | None
) -> datetime | None:
    """How long the run that has the machine may still make pods for it; None where it will not."""
    runs = {snapshot.run_of(machine), *(pod.run for pod in _ended_pods(snapshot, machine))}
    for attempt in snapshot.growing.get(machine.pool, ()):
        if attempt.first.run not in runs:
            continue
        if attempt.followers:
            since = ended or machine.ready_at or machine.launched_at or snapshot.now
            return since + NEXT_FOLLOWERS
        return (attempt.first.started_at or snapshot.now) + FIRST_FOLLOWERS
    return None


def _ended_pods(snapshot: Snapshot, machine: MachineSeen) -> tuple[PodSeen, ...]:
    return () if machine.node is None else snapshot.ended_on.get(machine.node, ())


def _ended_at(snapshot: Snapshot, machine: MachineSeen) -> datetime | None:
    """When the last run on it ended, as far as anybody saw."""
    ends = [pod.over for pod in _ended_pods(snapshot, machine) if pod.over is not None]
    since = snapshot.idle_since.get(machine.id)
    return max([*ends, *([since] if since else [])], default=None)


def _log_is_read(snapshot: Snapshot, pod: PodSeen) -> bool:
    if pod.follower or pod.seen or pod.uid in snapshot.logs or pod.started_at is None:
        return True
    if pod.attempt in snapshot.owners_over:
        return True  # nobody waits for it any more
    return pod.deleting_at is not None and not snapshot.keeps_logs


def _reason(snapshot: Snapshot, machine: MachineSeen) -> str:
    if _ended_at(snapshot, machine) is not None:
        return "its run has ended, and nobody needs it"
    if machine.ready_at is None:
        return "the run that it was bought for does not need it any more"
    return "it has no run"
