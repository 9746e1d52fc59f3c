"""Why an admitted attempt does not run yet, in words for its user.

Pure. A machine takes its time to be bought, to boot, to join; an image takes its time to be pulled.
Each of these is told once, with the time since when it is so; nothing is written that only counts
seconds.
"""

from __future__ import annotations

from datetime import timedelta

from piecework.keeper.cluster.actions import TellWaiting
from piecework.keeper.cluster.admit import tell
from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen, Snapshot
from piecework.keeper.cluster.wording import describe_machine, describe_purchase
from piecework.machines.provider import MachineSeen

#: Nothing is told before: most machines that are handed over take their pod sooner.
QUIET = timedelta(seconds=3)


def explain(snapshot: Snapshot) -> list[TellWaiting]:
    """What is to be told about admitted attempts that do not run."""
    actions: list[TellWaiting] = []
    by_run: dict[str, list[MachineSeen]] = {}
    for machine in snapshot.machines.values():
        if machine.gone_at is None and machine.released_at is None:
            by_run.setdefault(snapshot.run_of(machine) or "", []).append(machine)
    for attempt in snapshot.attempts.values():
        admitted_at = attempt.admitted_at
        if admitted_at is None or attempt.end is not None or not attempt.is_live:
            continue
        if snapshot.now - admitted_at < QUIET:
            continue
        reason = _reason(snapshot, attempt, by_run)
        if reason is not None:
            actions += tell(snapshot, attempt, reason)
    return actions


def _reason(
    snapshot: Snapshot, attempt: AttemptSeen, by_run: dict[str, list[MachineSeen]]
) -> str | None:
    for pod in attempt.own:
        if pod.pull_problem and pod.started_at is None:
            return pod.pull_problem
        if pod.is_live and pod.node is None and pod.deleting_at is None:
            return _why_no_machine(snapshot, attempt, pod, by_run.get(pod.run, []))
    return None


def _why_no_machine(
    snapshot: Snapshot, attempt: AttemptSeen, pod: PodSeen, machines: list[MachineSeen]
) -> str:
    request = attempt.request
    wanted = None if request is None else request.instance_type
    provider = snapshot.pools[pod.pool].provider
    free = [machine for machine in machines if not snapshot.pods_on(machine)]
    if provider == "karpenter" and free:
        machine = min(free, key=lambda m: m.id)
        kind = machine.instance_type or "a machine"
        if machine.launched_at is None:
            if machine.problem:
                return f"no machine yet: {machine.problem}"
            bought = describe_machine(machine.instance_type or wanted)
            return f"no machine yet: Karpenter is buying {bought}"
        if machine.ready_at is None:
            return f"its machine {machine.id} ({kind}) is booting"
        return f"its machine {machine.id} ({kind}) is ready and has not taken it yet"
    failure = snapshot.failures.get(pod.pool)
    if failure is not None:
        return failure
    hint = snapshot.hints.get(attempt.id)
    if hint is not None:
        return f"no machine yet: {hint}"
    return describe_purchase(provider, wanted)
