"""From what is seen to what the ledger says: the events of an attempt, and of a machine.

Pure. An event's identity is fixed by its subject and kind, and its time comes from the object that
tells of it (a condition, a container's state, the cloud's own record), so a keeper that is started
anew writes the same events again, and writing them again changes nothing. Times of Kubernetes are
whole seconds; so is what is billed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeGuard

from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen
from piecework.ledger.charges import RULES
from piecework.ledger.events import Event, Kind
from piecework.machines.provider import MachineSeen, PriceStep
from piecework.plan.price import PriceBook
from piecework.runners import pods as pod_facts
from piecework.runners.pod_status import attempt_status
from piecework.spec.pool import Pool

SOURCE = "keeper"
#: How long it may take to find out for which attempt a machine was bought.
_BUYER_KNOWN_AFTER = timedelta(seconds=10)
#: Which share of its time a kubelet must have seen of a program to know what it used.
_LEAST_COUNTED = 0.7
#: A machine, and the pods of an attempt that were bound to it.
_OnMachine = tuple[MachineSeen, Sequence[PodSeen]]
#: What the event attempt.queued takes from a pod's request as it is.
_ASKED = (
    "run", "job", "pipeline", "pipeline_run", "team", "engine", "pool", "priority", "cpu",
    "memory_bytes", "gpu", "count", "owner", "provider", "instance_type", "usd_per_hour",
    "deadline_seconds", "timeout_seconds",
)  # fmt: skip


def events_of_attempt(
    attempt: AttemptSeen,
    machine_on: Mapping[str, MachineSeen],
    now: datetime,
    counted: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Event]:
    """All that is known to have happened to an attempt, and to machines because of it.

    What happens to it are things that happen to its own pods; its followers only take machines.

    `machine_on` has the machines by the names of their nodes, `counted` what kubelets say of pods
    in which no launcher measures.
    """
    there = _pods_by_machine(attempt, machine_on)
    occupied = [event for pods in there.values() for event in _occupied(attempt, *pods, now=now)]
    if attempt.request is None:
        return occupied  # nobody known: what its machine costs is nobody's but an orphan's
    if not attempt.own:
        return occupied  # told before; its followers are the last that is left of it
    return [
        *_waited(attempt, now),
        *_ran(attempt, machine_on, now, counted or {}),
        *_grown(attempt, there, now),
        *occupied,
    ]


def events_of_machine(
    machine: MachineSeen, prices: Iterable[PriceStep], now: datetime
) -> list[Event]:
    """All that is known to have happened to a machine.

    That it was asked for is left out until it is known for whom; see `buyer_is_known`.
    """
    if machine.requested_at is None:
        return []

    def said(kind: Kind, at: datetime, sequence: int = 0, **data: Any) -> Event:
        return Event(SOURCE, machine.id, kind, sequence, at, now, data)

    events = []
    bought = machine.launched_at is not None or machine.gone_at is not None
    if bought and buyer_is_known(machine, now):
        events.append(
            said(
                Kind.MACHINE_REQUESTED,
                machine.requested_at,
                pool=machine.pool,
                provider=machine.provider,
                instance_type=machine.instance_type,
                attempt=machine.attempt,
                zone=machine.zone,
            )
        )
    if machine.launched_at is not None:
        rule = RULES[machine.billing]
        events.append(
            said(
                Kind.MACHINE_LAUNCHED,
                machine.launched_at,
                minimum_seconds=rule.minimum_seconds,
                increment_seconds=rule.increment_seconds,
                billing=machine.billing,
                spot=machine.spot,
            )
        )
        events += [
            said(
                Kind.MACHINE_PRICE,
                step.at,
                number,
                usd_per_hour=None if step.usd_per_hour is None else f"{step.usd_per_hour:f}",
                currency="USD",
                source=step.source,
                as_of=step.as_of,
            )
            for number, step in enumerate(prices)
        ]
    if machine.joined_at is not None:
        events.append(said(Kind.MACHINE_JOINED, machine.joined_at))
    if machine.ready_at is not None:
        events.append(said(Kind.MACHINE_READY, machine.ready_at))
    if machine.released_at is not None and _release_stands(machine):
        reason = machine.release_reason or "it was given back"
        events.append(said(Kind.MACHINE_RELEASED, machine.released_at, reason=reason))
    if machine.gone_at is not None:
        events.append(said(Kind.MACHINE_GONE, machine.gone_at, cause=machine.gone_cause))
    return events


def price_steps(machine: MachineSeen, pool: Pool, book: PriceBook) -> tuple[PriceStep, ...]:
    """The machine's prices: those that its provider knows, else those of the pool and the list.

    A spot machine is never priced as one on demand: where nobody says what it costs, it is
    unpriced.
    """
    if machine.prices:
        return machine.prices
    if machine.launched_at is None or machine.instance_type is None:
        return ()
    if machine.spot:
        price = (pool.spot_prices or {}).get(machine.instance_type)
        source = "no spot price is known" if price is None else f"spot prices of pool {pool.name}"
        return (PriceStep(machine.launched_at, price, source),)
    found = book.find(machine.instance_type)
    if found is None:
        source = f"the price list has no {machine.instance_type}"
        return (PriceStep(machine.launched_at, None, source),)
    as_of = found.as_of.isoformat() if found.as_of else None
    return (PriceStep(machine.launched_at, found.usd_per_hour, found.source, as_of),)


def buyer_is_known(machine: MachineSeen, now: datetime) -> bool:
    """The purchase is recorded once, so it waits until the keeper has found out for whom it is."""
    if machine.attempt is not None or machine.run is None or machine.requested_at is None:
        return True
    return now - machine.requested_at > _BUYER_KNOWN_AFTER


def _release_stands(machine: MachineSeen) -> bool:
    """A machine of a group may still get a pod after it was released; Karpenter's can't."""
    return machine.provider == "karpenter" or machine.gone_at is not None


def _waited(attempt: AttemptSeen, now: datetime) -> Iterator[Event]:
    request = attempt.request
    if request is not None:
        asked = {name: request.raw.get(name) for name in _ASKED if name in request.raw}
        asked["attempt"] = request.number
        yield Event(SOURCE, attempt.id, Kind.ATTEMPT_QUEUED, 0, attempt.queued_at, now, asked)
    for pod in attempt.own:
        if pod.waiting is not None:
            yield Event(
                SOURCE,
                attempt.id,
                Kind.ATTEMPT_WAITING,
                pod.waiting.number,
                pod.waiting.since,
                now,
                {"reason": pod.waiting.reason},
            )


def _ran(
    attempt: AttemptSeen,
    machine_on: Mapping[str, MachineSeen],
    now: datetime,
    counted: Mapping[str, Mapping[str, Any]],
) -> Iterator[Event]:
    def said(kind: Kind, at: datetime, **data: Any) -> Event:
        return Event(SOURCE, attempt.id, kind, 0, at, now, data)

    nodes = [pod.node for pod in attempt.own if pod.node is not None]
    machines = [machine_on[node] for node in nodes if node in machine_on]
    complete = len(machines) == attempt.count
    admitted_at = attempt.admitted_at
    if admitted_at is not None and (complete or not attempt.is_live):
        types = [machine.instance_type for machine in machines if machine.instance_type]
        planned = None if attempt.request is None else attempt.request.instance_type
        yield said(
            Kind.ATTEMPT_ADMITTED,
            admitted_at,
            machines=[machine.id for machine in machines],
            instance_type=types[0] if types else planned,
        )
    bound = [pod.bound_at for pod in attempt.own if pod.bound_at is not None]
    if bound and len(bound) == attempt.count:
        yield said(Kind.ATTEMPT_SCHEDULED, max(bound))
    pulling = [pod.sandbox_at for pod in attempt.own if pod.sandbox_at is not None]
    if pulling:
        yield said(Kind.ATTEMPT_PULLING, min(pulling))
    started = [pod.started_at for pod in attempt.own if pod.started_at is not None]
    if started:
        yield said(Kind.ATTEMPT_STARTED, min(started))
    if not attempt.is_live:
        yield _ended(attempt, now, counted)


def _ended(attempt: AttemptSeen, now: datetime, counted: Mapping[str, Mapping[str, Any]]) -> Event:
    status = attempt_status([pod.raw for pod in attempt.own], now)
    over = max((pod.over for pod in attempt.own if pod.over is not None), default=now)
    uses = [_use_of(pod, counted.get(pod.uid)) for pod in attempt.pods]
    if None in uses and any(pod.uid in counted for pod in attempt.pods):
        uses = []  # of a gang that nobody measures all pods are known, or none
    data = {
        "outcome": None if status.outcome is None else str(status.outcome),
        "cause": status.cause,
        "exit_code": status.exit_code,
        "use": merge_use(uses),
        "artifacts": sum(pod_facts.artifacts_of(pod.raw) for pod in attempt.pods),
    }
    at = status.ended_at or over
    return Event(SOURCE, attempt.id, Kind.ATTEMPT_ENDED, 0, at, now, data)


def _use_of(pod: PodSeen, counted: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What its launcher measured; else what its kubelet counted, where that covers most of it."""
    measured = pod_facts.use_of(pod.raw)
    if measured is not None or counted is None or pod.started_at is None or pod.over is None:
        return measured
    ran = (pod.over - pod.started_at).total_seconds()
    return counted if counted["counted_seconds"] >= _LEAST_COUNTED * ran else None


def merge_use(uses: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
    """What all pods of an attempt used: times and bytes together, the highest of the peaks.

    An engine tells of its whole cluster, as its head knows it: who knew it longest.
    """
    known = [use for use in uses if use is not None]
    merged: dict[str, Any] = {}
    for name in ("cpu_seconds", "peak_memory_bytes", "read_bytes", "written_bytes"):
        values = [use[name] for use in known if _is_number(use.get(name))]
        together = max if name == "peak_memory_bytes" else sum
        merged[name] = together(values) if values else None
    seconds = [use["counted_seconds"] for use in known if _is_number(use.get("counted_seconds"))]
    if seconds:
        merged["counted_seconds"] = sum(seconds)
    for name in ("spark", "dask"):
        told: list[Mapping[str, Any]] = [
            use[name] for use in known if isinstance(use.get(name), Mapping)
        ]
        if told:
            longest = max(told, key=_wall_seconds)
            merged[name] = dict(longest)
    return merged


def _wall_seconds(told: Mapping[str, Any]) -> float:
    seconds = told.get("wall_seconds")
    return seconds if _is_number(seconds) else 0.0


def _is_number(value: Any) -> TypeGuard[int | float]:
    """What a pod says in its last message may be anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**62


def _grown(attempt: AttemptSeen, there: Mapping[str, _OnMachine], now: datetime) -> Iterator[Event]:
    """Machines that are told one by one: those where only followers are, and those that may be
    listed by their seller only after the attempt is over.
    """
    if attempt.admitted_at is None:
        return
    for machine, pods in there.values():
        told_at_once = attempt.is_live and attempt.count == 1
        if not told_at_once or all(pod.follower for pod in pods):
            number = zlib.crc32(machine.id.encode())
            data = {"machines": [machine.id]}
            at = attempt.admitted_at
            yield Event(SOURCE, attempt.id, Kind.ATTEMPT_ADMITTED, number, at, now, data)


def _pods_by_machine(
    attempt: AttemptSeen, machine_on: Mapping[str, MachineSeen]
) -> dict[str, _OnMachine]:
    """The attempt's machines, each with all of its pods that were ever bound there."""
    found: dict[str, _OnMachine] = {}
    for pod in attempt.pods:
        machine = None if pod.node is None else machine_on.get(pod.node)
        if machine is not None and pod.bound_at is not None:
            _, before = found.get(machine.id, (machine, ()))
            found[machine.id] = machine, (*before, pod)
    return found


def _occupied(
    attempt: AttemptSeen, machine: MachineSeen, pods: Sequence[PodSeen], *, now: datetime
) -> Iterator[Event]:
    """A machine is the attempt's from its first pod there to its last, however many there were."""
    number = zlib.crc32(attempt.id.encode())
    data = {"attempt": attempt.id}
    start = min(pod.bound_at for pod in pods if pod.bound_at is not None)
    yield Event(SOURCE, machine.id, Kind.MACHINE_OCCUPIED, number, start, now, data)
    end = _vacated_at(attempt, machine, pods)
    if end is not None:
        yield Event(SOURCE, machine.id, Kind.MACHINE_VACATED, number, max(start, end), now, data)


def _vacated_at(
    attempt: AttemptSeen, machine: MachineSeen, pods: Sequence[PodSeen]
) -> datetime | None:
    """When the attempt left the machine for good; None while it has not.

    Where only followers were, its engine may put more of them while it lives, until the machine is
    given back.
    """
    ends = [pod.over for pod in pods if pod.over is not None]
    if len(ends) < len(pods):
        return None
    last = max(ends)
    if not attempt.own or not all(pod.follower for pod in pods):
        return last
    own = [pod.over for pod in attempt.own if pod.over is not None]
    final = [max(own)] if len(own) == len(attempt.own) else []
    if machine.released_at is not None and _release_stands(machine):
        final.append(machine.released_at)
    if machine.gone_at is not None:
        final.append(machine.gone_at)
    return max(last, min(final)) if final else None
