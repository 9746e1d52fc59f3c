"""What has outlived its purpose: attempts whose owner or time is over, machines that do no work.

Pure. Nothing is judged by silence: an owner that does not answer is not over, and a node that does
not answer is lost only after the pool's `lost_after`, or when its seller says that it is gone. Each
finding is a sentence, which becomes the cause in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from piecework import clock
from piecework.keeper.cluster.actions import Action, EndAttempt, GiveBack, Release
from piecework.keeper.cluster.lost import is_out_of_reach, why_lost
from piecework.keeper.cluster.parts import PARTING, end_parts
from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen, Snapshot
from piecework.ledger.events import Outcome
from piecework.machines.provider import NEVER_JOINED, MachineSeen
from piecework.runners.pods import ending_of
from piecework.spec.pool import Pool
from piecework.units import format_duration

#: A kubelet ends a pod at its time limit by itself; this much later it has failed to.
OVERTIME = timedelta(seconds=60)
#: Exit codes of an executor that Spark, or a SIGTERM, has told to go.
_TOLD_TO_GO = (0, 143)
#: How long GPUs may take to appear on a machine that is ready.
GPUS_APPEAR = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that has outlived its purpose: what, why, and what ends it."""

    subject: str
    reason: str
    actions: tuple[Action, ...]


def find_orphans(snapshot: Snapshot) -> list[Finding]:
    """Everything that has no living purpose, each thing once."""
    found: list[Finding] = []
    for attempt in snapshot.attempts.values():
        if not (attempt.is_live or any(pod.is_live for pod in attempt.followers)):
            continue
        whole = _judge_attempt(snapshot, attempt) if attempt.is_live else None
        if whole is not None:
            found.append(whole)
        elif len(attempt.pods) > 1 or not attempt.own:
            found += _judge_parts(snapshot, attempt)
    found += [
        finding
        for machine in snapshot.machines.values()
        if machine.state not in ("leaving", "gone")
        and (finding := _judge_machine(snapshot, machine)) is not None
    ]
    return found


def _judge_attempt(snapshot: Snapshot, attempt: AttemptSeen) -> Finding | None:
    pool = snapshot.pools.get(attempt.first.pool)
    if pool is None:
        return None
    lost = _find_lost(snapshot, attempt, pool)
    if lost is not None:
        pod, cause = lost
        # A gang of which one never ran has not begun, whatever the others have done.
        outcome = Outcome.INTERRUPTED if pod.started_at else Outcome.NEVER_STARTED
        return _end(snapshot, attempt, outcome, cause, force=True)
    for pod in attempt.vital:
        if pod.end is not None and pod.is_live and pod.deleting_at is None:
            # Whoever wrote that died before the deletion.
            return _end(snapshot, attempt, pod.end.outcome, pod.end.cause)
    if attempt.end is not None and any(is_out_of_reach(snapshot, pod) for pod in attempt.own):
        return _end(snapshot, attempt, attempt.end.outcome, attempt.end.cause, force=True)
    if all(pod.deleting_at is not None or not pod.is_live for pod in attempt.own):
        return None
    for outcome, cause in _reasons(snapshot, attempt, pool):
        return _end(snapshot, attempt, outcome, cause)
    return None


def _reasons(snapshot: Snapshot, attempt: AttemptSeen, pool: Pool) -> Iterator[tuple[Outcome, str]]:
    """Why an attempt is to end, the first reason first."""
    over = snapshot.owners_over.get(attempt.id)
    if over is not None:
        yield Outcome.CANCELLED, over
    driver = _lost_driver(snapshot, attempt)
    if driver is not None:
        yield Outcome.CANCELLED, driver
    if attempt.count > 1:
        yield from _broken_gang(attempt)
    yield from _broken_engine(snapshot, attempt, pool)
    request, now = attempt.request, snapshot.now
    if request is not None and request.deadline_seconds and request.on_deadline == "cancel":
        deadline = attempt.queued_at + timedelta(seconds=request.deadline_seconds)
        if now >= deadline:
            passed = f"its deadline, {clock.to_text(deadline)}, has passed (on_deadline: cancel)"
            yield Outcome.CANCELLED, passed
    if request is not None and request.timeout_seconds:
        limit = timedelta(seconds=request.timeout_seconds)
        bound = attempt.first.bound_at
        if bound is not None and now - bound > limit + OVERTIME:
            yield Outcome.TIMEOUT, f"it ran longer than its timeout of {format_duration(limit)}"
    yield from _never_started(snapshot, attempt, pool)


def _never_started(
    snapshot: Snapshot, attempt: AttemptSeen, pool: Pool
) -> Iterator[tuple[Outcome, str]]:
    """Limits on waiting for a machine, and on pulling an image."""
    now, admitted = snapshot.now, attempt.admitted_at
    waits = any(pod.is_live and pod.node is None for pod in attempt.vital)
    if admitted is not None and waits and now - admitted > pool.start_timeout:
        limit = format_duration(pool.start_timeout)
        why = attempt.first.waiting.reason if attempt.first.waiting else "no machine came"
        yield Outcome.NEVER_STARTED, f"it got no machine within {limit} of its admission: {why}"
    let_in = [pod.admitted_at for pod in attempt.followers if pod.is_live and pod.admitted_at]
    nowhere = all(pod.node is None for pod in attempt.followers if pod.is_live)
    if let_in and nowhere and now - min(let_in) > pool.start_timeout:
        limit = format_duration(pool.start_timeout)
        yield Outcome.NEVER_STARTED, f"none of the pods that it made got a machine within {limit}"
    for pod in attempt.vital:
        if pod.pull_problem and pod.bound_at and now - pod.bound_at > pool.pull_timeout:
            limit = format_duration(pool.pull_timeout)
            yield Outcome.NEVER_STARTED, f"it did not start within {limit}: {pod.pull_problem}"


def _broken_gang(attempt: AttemptSeen) -> Iterator[tuple[Outcome, str]]:
    """A gang of which one has failed is of no use any more; once its head runs, the head decides.

    What becomes of the workers when it has succeeded, see `end_parts`.
    """
    if attempt.request is not None and attempt.request.led and attempt.head is None:
        yield Outcome.INTERRUPTED, "the head of its gang is gone"
    for pod in attempt.vital:
        phase = pod.raw.get("status", {}).get("phase")
        if not pod.is_live and phase != "Succeeded":
            yield Outcome.INTERRUPTED, f"pod {pod.key[1]} of its gang has ended"


def _broken_engine(
    snapshot: Snapshot, attempt: AttemptSeen, pool: Pool
) -> Iterator[tuple[Outcome, str]]:
    """H2O's data is in its executors' memory: without one of them it waits for ever.

    One that was told to go, by Spark or by a deletion, is not lost; Spark also deletes what failed.
    """
    if attempt.request is None or attempt.request.raw.get("engine") != "h2o":
        return
    for pod in attempt.followers:
        end = pod.over or snapshot.now
        if pod.started_at is None or (pod.deleted_at is not None and pod.deleted_at < end):
            continue
        lost = why_lost(snapshot, pod, pool)
        if lost is not None:
            yield Outcome.INTERRUPTED, f"H2O cannot go on without executor {pod.key[1]}: {lost}"
        elif pod.over is not None and snapshot.now - pod.over > PARTING:
            ending = ending_of(pod.raw)
            if ending is not None and ending.exit_code not in _TOLD_TO_GO:
                cause = f"H2O cannot go on without executor {pod.key[1]}: {ending.cause}"
                yield ending.outcome, cause


def _lost_driver(snapshot: Snapshot, attempt: AttemptSeen) -> str | None:
    """An executor whose driver is over, or not there any more."""
    for pod in attempt.own:
        for name in pod.drivers:
            driver = snapshot.pods.get((pod.key[0], name))
            if driver is None or not driver.is_live:
                return f"its driver, pod {name}, is over"
    return None


def _find_lost(snapshot: Snapshot, attempt: AttemptSeen, pool: Pool) -> tuple[PodSeen, str] | None:
    """A pod that it cannot lose, and why its machine is not running it any more."""
    for pod in attempt.vital:
        lost = why_lost(snapshot, pod, pool)
        if lost is not None:
            return pod, lost
    return None


def _end(
    snapshot: Snapshot, attempt: AttemptSeen, outcome: Outcome, cause: str, *, force: bool = False
) -> Finding:
    end = attempt.end
    if end is not None:
        outcome, cause = end.outcome, end.cause
    action = EndAttempt(attempt, outcome, cause, snapshot.now, force)
    return Finding(attempt.id, cause, (action,))


def _judge_parts(snapshot: Snapshot, attempt: AttemptSeen) -> list[Finding]:
    """Pods that end alone; see `end_parts`."""
    pool = snapshot.pools.get(attempt.first.pool)
    if pool is None:
        return []
    return [
        Finding(pod.key[1], end.cause, (end,))
        for end in end_parts(snapshot, attempt, pool)
        for pod in end.pods[:1]
    ]


def _judge_machine(snapshot: Snapshot, machine: MachineSeen) -> Finding | None:
    pool = snapshot.pools.get(machine.pool)
    if pool is None or machine.launched_at is None:
        return None
    now = snapshot.now
    node = snapshot.node_of(machine)
    if machine.joined_at is None and node is None:
        if now - machine.launched_at > pool.join_timeout:
            limit = format_duration(pool.join_timeout)
            return _release(snapshot, machine, f"{NEVER_JOINED} within {limit}")
        return None
    if node is None:
        since = machine.ready_at or machine.joined_at or machine.launched_at
        if now - since > pool.lost_after:
            return _release(snapshot, machine, "it is not in the cluster any more")
        return None
    if node.silent_since is not None and machine.joined_at is not None:
        silent = min(snapshot.silence_of(node), now - machine.joined_at)
        was_ready = machine.ready_at is not None or _has_served(snapshot, machine)
        if node.speaks and was_ready and silent <= pool.join_timeout:
            return None
        if not was_ready and silent > pool.join_timeout:
            reason = f"{NEVER_JOINED} within {format_duration(pool.join_timeout)}"
            return _release(snapshot, machine, reason)
        if was_ready and silent > pool.lost_after:
            reason = f"it has not answered for {format_duration(pool.lost_after)}"
            return _release(snapshot, machine, reason)
    expected = snapshot.expected_gpus.get(machine.instance_type or "", 0)
    lacks = node.gpus < expected and not snapshot.pods_on(machine)
    if lacks and node.ready_at is not None and now - node.ready_at > GPUS_APPEAR:
        reason = f"its GPUs did not appear within {format_duration(GPUS_APPEAR)}"
        return _release(snapshot, machine, reason)
    return None


def _has_served(snapshot: Snapshot, machine: MachineSeen) -> bool:
    """Whether a program has run on it, whatever Karpenter says about its initialization."""
    ended = snapshot.ended_on.get(machine.node or "", ())
    pods = (*snapshot.pods_on(machine), *ended)
    return machine.id in snapshot.idle_since or any(pod.started_at for pod in pods)


def _release(snapshot: Snapshot, machine: MachineSeen, reason: str) -> Finding:
    actions: tuple[Action, ...] = (Release(machine, snapshot.now, reason),)
    if machine.provider == "karpenter":
        actions = (*actions, GiveBack(machine))
    return Finding(machine.id, reason, actions)
