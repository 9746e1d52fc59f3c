"""Opens the gates of pods that engines make while their attempt runs: its followers.

Pure. Nobody queues here: all machines of a run were counted when it was admitted. But a run never
holds more of them than it may: a follower that would need one more stays behind its gate, and says
so. Machines of the run that are idle are taken first, then others' idle ones, and then autoscalers
buy.
"""

from __future__ import annotations

import math

from piecework.keeper.cluster.actions import Action, AdmitFollowers, TellWaiting
from piecework.keeper.cluster.queue import Taken, fits
from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen, Snapshot


def admit_followers(snapshot: Snapshot, taken: Taken, attempt: AttemptSeen) -> list[Action]:
    """What is to be done for the followers of one attempt that are behind their gates."""
    waiting = [pod for pod in attempt.followers if _is_waiting(pod)]
    if not waiting or not attempt.may_grow or any(pod.node is None for pod in attempt.own):
        return []
    waiting.sort(key=lambda pod: (pod.created_at, pod.key))
    inside = [pod for pod in attempt.followers if pod.is_live and not pod.gated]
    room = max(0, most_followers(attempt) - len(inside))
    opened, refused = waiting[:room], waiting[room:]
    actions: list[Action] = [tell for pod in refused for tell in _refuse(snapshot, attempt, pod)]
    if opened:
        lacking = _machines_for(attempt, len(inside) + len(opened)) - _held(attempt)
        lacking -= len(taken.kept.get(attempt.id, ()))
        idle = [m for m in taken.idle.get(attempt.first.pool, ()) if fits(attempt, m)]
        handed = sorted(idle, key=lambda m: (m.ready_at is None, m.id))[: max(0, lacking)]
        taken.take_idle(handed)
        actions.insert(0, AdmitFollowers(attempt, tuple(opened), snapshot.now, tuple(handed)))
    return actions


def most_followers(attempt: AttemptSeen) -> int:
    """How many followers fit on the machines that the attempt may hold."""
    beside, each = _fitting(attempt)
    return beside + each * (attempt.machines - attempt.count)


def _machines_for(attempt: AttemptSeen, followers: int) -> int:
    """How many machines so many followers need, besides those of the attempt's own pods."""
    beside, each = _fitting(attempt)
    return math.ceil(max(0, followers - beside) / each)


def _fitting(attempt: AttemptSeen) -> tuple[int, int]:
    """How many followers fit beside the head, and on a machine of their own, as they say."""
    asked = [pod.request for pod in (*attempt.followers, *attempt.own) if pod.request is not None]
    if not asked:
        return 0, 1
    return asked[0].beside_head, asked[0].per_machine


def _held(attempt: AttemptSeen) -> int:
    """How many machines its followers are on by themselves."""
    nodes = {pod.node for pod in attempt.followers if pod.is_live and pod.node is not None}
    return len(nodes - {pod.node for pod in attempt.own})


def _is_waiting(pod: PodSeen) -> bool:
    return pod.gated and pod.is_live and pod.deleting_at is None and not pod.waits_for_kueue


def _refuse(snapshot: Snapshot, attempt: AttemptSeen, pod: PodSeen) -> list[TellWaiting]:
    most = attempt.machines
    holds = "1 machine" if most == 1 else f"{most} machines"
    reason = f"its run may hold {holds}, and {most_followers(attempt)} such pods fit on them"
    if pod.waiting is not None and pod.waiting.reason == reason:
        return []
    number = 0 if pod.waiting is None else pod.waiting.number + 1
    return [TellWaiting(pod, reason, snapshot.now, number)]
