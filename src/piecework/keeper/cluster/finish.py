"""What is left to do for pods and machines that are over: hold, mark, let go.

Pure. An object is kept by its finalizer until what it tells is in the ledger; then it is marked,
and goes as soon as whoever waited for it has read its end, or does not wait any more.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from piecework.keeper.cluster.actions import (
    Action,
    ForgetMachine,
    MarkRecorded,
    NoteDeletion,
    RemovePod,
    StampMachine,
)
from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen, Snapshot
from piecework.machines.provider import MachineSeen
from piecework.runners.pods import DELETED, DISRUPTED

#: How long a pod waits to be read by whoever asked for it.
UNREAD = timedelta(hours=1)
#: How long it waits for a task of Airflow to be over: a task may be tried again after hours, and
#: Airflow may be away for a weekend.
UNANSWERED = timedelta(days=7)
#: How long the copy of a log may take.
LOG_COPY = timedelta(seconds=10)
#: How long it may take until it is known who sold the machine that a pod ran on.
UNSOLD = timedelta(seconds=75)


def finish(snapshot: Snapshot, recorded: Collection[str]) -> list[Action]:
    """Marks and removals. `recorded` are attempts and machines whose end is in the ledger."""
    actions: list[Action] = []
    for attempt in snapshot.attempts.values():
        if attempt.id in recorded:
            for pod in attempt.own:
                actions += _finish_pod(snapshot, attempt, pod)
        if attempt.followers and not attempt.is_live:
            actions += [
                RemovePod(pod, "its run has ended")
                for pod in attempt.followers
                if pod.over is not None and (pod.held or pod.deleting_at is None)
            ]
    for machine in snapshot.machines.values():
        if machine.gone_at is not None and machine.id in recorded:
            actions.append(ForgetMachine(machine))
    return actions


def stamp(snapshot: Snapshot) -> list[Action]:
    """Machines whose record nobody holds yet, or that do not say for whom they were bought."""
    actions: list[Action] = []
    for machine in snapshot.machines.values():
        if machine.provider != "karpenter" or machine.gone_at is not None:
            continue
        buyer = find_buyer(snapshot, machine) if machine.attempt is None else None
        if buyer is not None or not (machine.held or machine.leaving_at):
            actions.append(StampMachine(machine, buyer or machine.attempt))
    return actions


def note_deletions(snapshot: Snapshot) -> list[Action]:
    """Pods that somebody deletes, and on which nobody has written why."""
    return [
        NoteDeletion(pod, pod.deleted_at)
        for attempt in snapshot.attempts.values()
        for pod in attempt.pods
        if pod.deleted_at is not None and pod.is_live and pod.held and pod.end is None
    ]


def find_buyer(snapshot: Snapshot, machine: MachineSeen) -> str | None:
    """The attempt for which a machine was bought: of its run, the one admitted last before it."""
    if machine.run is None or machine.requested_at is None:
        return None
    admitted = [
        (attempt.admitted_at, attempt.id)
        for attempt in snapshot.by_run.get(machine.run, ())
        if attempt.admitted_at is not None
        # The API server's times are whole seconds, cut off.
        and attempt.admitted_at <= machine.requested_at + timedelta(seconds=1)
    ]
    return max(admitted)[1] if admitted else None


def _is_asked_by_airflow(attempt: AttemptSeen) -> bool:
    request = attempt.first.request
    return request is not None and request.owner.get("kind") == "airflow"


def _finish_pod(snapshot: Snapshot, attempt: AttemptSeen, pod: PodSeen) -> list[Action]:
    assert pod.over is not None
    since = snapshot.now - pod.over
    if not pod.recorded:
        waits_for_log = snapshot.keeps_logs and pod.started_at is not None
        if waits_for_log and pod.uid not in snapshot.logs and since <= LOG_COPY:
            return []
        return [MarkRecorded(pod)]
    if not pod.held and pod.deleting_at is None and since <= UNREAD:
        return []
    if pod.node in snapshot.nodes and pod.node not in snapshot.machine_on and since <= UNSOLD:
        return []  # what it costs can only be told while the pod is there
    over = snapshot.owners_over.get(attempt.id)
    if over is not None:
        return [RemovePod(pod, over)]
    if _is_asked_by_airflow(attempt):
        # A task tells from what is there what was tried: whether it has succeeded, how often it
        # may be tried again, and the number of the next attempt, which no other may have had.
        if since > UNANSWERED:
            return [RemovePod(pod, "it was recorded, and its task was not heard of for a week")]
        return []
    if pod.seen:
        return [RemovePod(pod, "it was recorded and read")]
    by_somebody = pod.end is None or pod.end.cause.startswith((DELETED, DISRUPTED))
    if pod.deleting_at is not None and by_somebody:
        return [RemovePod(pod, "it was recorded, and somebody deletes it")]
    if since > UNREAD:
        return [RemovePod(pod, "it was recorded, and nobody has read it for an hour")]
    return []
