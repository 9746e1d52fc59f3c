"""Pods that end alone, while the rest of their attempt goes on, or has ended before.

Pure. Followers end with their attempt's own pods, whatever ended those; workers of a gang end with
its head. What is lost with its machine ends by itself, where the attempt can do without it: engines
with a head put others in the place of what they lose, or make do with the rest.
"""

from __future__ import annotations

from datetime import timedelta

from piecework.keeper.cluster.actions import EndAttempt
from piecework.keeper.cluster.lost import is_out_of_reach, why_lost
from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen, Snapshot
from piecework.ledger.events import Outcome
from piecework.spec.pool import Pool

#: How long workers may take to end by themselves, once their head has succeeded.
PARTING = timedelta(seconds=10)


def end_parts(snapshot: Snapshot, attempt: AttemptSeen, pool: Pool) -> list[EndAttempt]:
    """The ends of pods that go alone; each pod once."""
    if not attempt.followers and attempt.head is None:
        return []
    vital = {pod.key for pod in attempt.vital}
    left = {pod.key: pod for pod in attempt.pods if pod.is_live and pod.key not in vital}
    ends = []
    for pod in list(left.values()):
        alone = _why_alone(snapshot, pod, pool)
        if alone is not None:
            del left[pod.key]
            outcome, why, force = alone
            ends.append(EndAttempt(attempt, outcome, why, snapshot.now, force, (pod,)))
    for cause, pods in (
        (why_over(attempt), attempt.followers),
        (_why_workers_end(snapshot, attempt), attempt.own),
    ):
        due = tuple(pod for pod in pods if pod.key in left and pod.deleting_at is None)
        if cause and due:
            ends.append(EndAttempt(attempt, Outcome.CANCELLED, cause, snapshot.now, only=due))
    return ends


def _why_alone(snapshot: Snapshot, pod: PodSeen, pool: Pool) -> tuple[Outcome, str, bool] | None:
    """As what and why a pod ends by itself, and whether by force; None where it does not."""
    lost = why_lost(snapshot, pod, pool)
    if lost is not None:
        return Outcome.INTERRUPTED, lost, True
    if is_out_of_reach(snapshot, pod):
        return Outcome.NEVER_STARTED, "it is to end, and its machine has never spoken", True
    if pod.end is not None and pod.deleting_at is None:
        # Whoever wrote that died before the deletion.
        return pod.end.outcome, pod.end.cause, False
    return None


def _why_workers_end(snapshot: Snapshot, attempt: AttemptSeen) -> str | None:
    head = attempt.head
    if head is None or head.over is None or snapshot.now - head.over <= PARTING:
        return None
    return f"the program of its head, pod {head.key[1]}, has ended"


def why_over(attempt: AttemptSeen) -> str | None:
    """Why nothing of an attempt shall run any more, seen from its followers; None: it goes on."""
    if not attempt.own:
        return "the pods of its run are gone"
    if not attempt.is_live:
        return f"pod {attempt.first.key[1]} of its run has ended"
    live = [pod for pod in attempt.vital if pod.is_live]
    if not live:
        return f"pod {attempt.first.key[1]}, the head of its run, has ended"
    if all(pod.deleting_at is not None or pod.end is not None for pod in live):
        return f"pod {live[0].key[1]} of its run is being ended"
    return None
