"""The loop: what changed, what to record, what to do, and again.

Enters: a cluster, its pools, a ledger. Leaves: machines that are used or given back, and a ledger
that knows. A tick is started by a change, a moment later, so that what changes together is looked
at together; and at least once a second while there is anything, because time passes too. Deciding
is what takes time where there is much, and doing may have to wait for others: recording waits for
neither.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from piecework import clock
from piecework.clock import Clock
from piecework.errors import PieceworkError
from piecework.keeper.cluster.actions import Action
from piecework.keeper.cluster.apply import Done, Executor
from piecework.keeper.cluster.decide import decide
from piecework.keeper.cluster.record import (
    buyer_is_known,
    events_of_attempt,
    events_of_machine,
    price_steps,
)
from piecework.keeper.cluster.snapshot import Snapshot
from piecework.keeper.cluster.state import State
from piecework.keeper.cluster.writer import Writer
from piecework.kube.client import NODE, NODE_CLAIM, POD, Kind, Kube, Object
from piecework.kube.watch import Mirror
from piecework.machines.provider import MachineSeen, Provider
from piecework.plan import labels
from piecework.plan.price import PriceBook, load_price_book
from piecework.spec.pool import Pool
from piecework.spec.team import Team

logger = logging.getLogger(__name__)

#: From a change to the tick that looks at it: what changes together is looked at together.
DEBOUNCE_SECONDS = 0.1
#: From one decision to the next it rests at least so many times as long as that took: at most a
#: fifth of a core.
REST = 4.0
#: What is done first where there is much to do: first whatever saves money, then whoever waits.
URGENCY = (
    "note-deletion",
    "end",
    "note-interruption",
    "release",
    "give-back",
    "stamp-machine",
    "admit",
    "admit-followers",
    "tell-waiting",
    "mark-recorded",
    "forget-machine",
    "remove-pod",
)
#: What can wait is done in portions, so that thousands of it hold up nothing else.
MOST_AT_ONCE = {"tell-waiting": 40, "mark-recorded": 100, "remove-pod": 100, "forget-machine": 50}
#: Between two ticks without a change.
IDLE_SECONDS = 1.0


class Sources:
    """Live copies of a cluster's objects, and a queue of what changed in them."""

    def __init__(self, kube: Kube, pools: Collection[Pool], wake: Callable[[], object]) -> None:
        self._wake = wake
        self._changes: deque[tuple[str, str, Object]] = deque()
        kinds = {"pod": POD, "node": NODE}
        if any(pool.provider == "karpenter" for pool in pools):
            kinds["claim"] = NODE_CLAIM
        self._mirrors = {name: self._mirror(kube, kind, name) for name, kind in kinds.items()}

    def claims(self) -> Mapping[Any, Object]:
        """The NodeClaims of piecework's pools, as they are now."""
        mirror = self._mirrors.get("claim")
        return {} if mirror is None else mirror.objects

    def start(self) -> None:
        """Begins to list and watch."""
        for mirror in self._mirrors.values():
            mirror.start()

    def wait_synced(self, timeout_seconds: float) -> bool:
        """Whether all is known, after waiting for that."""
        deadline = time.monotonic() + timeout_seconds
        return all(
            mirror.wait_synced(max(0.0, deadline - time.monotonic()))
            for mirror in self._mirrors.values()
        )

    def drain(self, state: State, now: datetime) -> int:
        """Hands what has changed to the state; returns how many changes there were."""
        count = 0
        while self._changes:
            kind, change, obj = self._changes.popleft()
            count += 1
            if kind == "pod":
                state.take_pod(obj, deleted=change == "DELETED", now=now)
            elif kind == "node":
                state.take_node(obj, deleted=change == "DELETED")
        return count

    def errors(self) -> list[str]:
        """What is wrong with the watches at the moment."""
        return [mirror.error for mirror in self._mirrors.values() if mirror.error is not None]

    def stop(self) -> None:
        for mirror in self._mirrors.values():
            mirror.stop()

    def _mirror(self, kube: Kube, kind: Kind, name: str) -> Mirror:
        def changed(change: str, obj: Object) -> None:
            if change != "SYNCED":
                self._changes.append((name, change, obj))
            self._wake()

        return Mirror(kube, kind, labels=labels.POOL, on_change=changed)


@dataclass
class Helpers:
    """What others find out for the keeper, in threads of their own; see their modules."""

    owners_over: Callable[[], Mapping[str, str]] = dict
    hints: Callable[[], Mapping[str, str]] = dict
    counted: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
    kept_logs: Callable[[], frozenset[str]] = frozenset
    keeps_logs: bool = False
    #: Called with each snapshot, to see what is to be found out.
    look: list[Callable[[Snapshot], object]] = field(default_factory=list)
    #: One round of finding out, for whoever looks only once.
    ask: list[Callable[[], object]] = field(default_factory=list)
    #: The same as `look`, for those that write something: only the keeper that acts calls them.
    act: list[Callable[[Snapshot], object]] = field(default_factory=list)
    #: Called with each tick's outcome, for the metrics.
    told: list[Callable[[Snapshot, list[Done]], object]] = field(default_factory=list)


@dataclass
class Tending:
    """One keeper of one cluster."""

    kube: Kube
    pools: Mapping[str, Pool]
    teams: Mapping[str, Team]
    providers: Mapping[str, Provider]
    sources: Sources
    writer: Writer
    executor: Executor
    wake: threading.Event
    helpers: Helpers = field(default_factory=Helpers)
    may_act: Callable[[], bool] = lambda: True
    now: Clock = clock.now

    def __post_init__(self) -> None:
        self.state = State(self.pools)
        self.books: dict[str, PriceBook] = {n: load_price_book(p) for n, p in self.pools.items()}
        types = [item for book in self.books.values() for item in book.types.values()]
        self.expected_gpus = {item.name: item.gpus for item in types if item.gpus}
        self._reachable_since: datetime | None = None
        self._blind = False
        self._stopping = threading.Event()

    def run(self) -> None:
        """Ticks until `stop`. What happens is recorded at once, also while something is done that
        takes its time, and while it rests.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="acting") as hands:
            acting: Future[tuple[Snapshot, list[Done]]] | None = None
            # Whether anything has changed, or time has passed, since the last decision.
            due, rested_at, rest = True, 0.0, 0.0
            while not self._stopping.is_set():
                woken = self.wake.wait(self._pause(rested_at, due=due, acting=acting is not None))
                if woken:
                    self._stopping.wait(max(DEBOUNCE_SECONDS, rest))
                self.wake.clear()
                due = due or woken or acting is None
                began, rest = time.thread_time(), 0.0
                try:
                    if acting is not None and acting.done():
                        done, acting = acting, None
                        self._finish(*done.result())
                    if not due or acting is not None or time.monotonic() < rested_at:
                        self.note()
                        rest = REST * (time.thread_time() - began)
                        continue
                    due, decided = False, self._decide()
                    rested_at = time.monotonic() + REST * (time.thread_time() - began)
                    if decided is not None:
                        acting = hands.submit(self._act, *decided)
                except PieceworkError as error:
                    logger.warning("a round was not finished, and is tried again: %s", error)
                    self._stopping.wait(IDLE_SECONDS)

    def _pause(self, rested_at: float, *, due: bool, acting: bool) -> float:
        """How long nothing needs to be looked at, if nothing changes."""
        if acting:
            return DEBOUNCE_SECONDS
        if due:
            return max(0.0, rested_at - time.monotonic())
        return IDLE_SECONDS if self.state.attempts or self.state.machines else 5 * IDLE_SECONDS

    def stop(self) -> None:
        """Ends the loop after the present tick."""
        self._stopping.set()
        self.wake.set()

    def tick(self) -> list[Done]:
        """One round: takes note, records, decides, acts.

        Does nothing while others are the keeper, but stays up to date; and only records while a
        watch is broken: what it would act upon may not be true any more.
        """
        decided = self._decide()
        return [] if decided is None else self._finish(*self._act(*decided))

    def note(self) -> None:
        """Takes note of what has changed, and records it: a hundredth of a whole round."""
        snapshot = self.look()
        if self.may_act():
            self.record(snapshot)

    def _decide(self) -> tuple[Snapshot, list[Action]] | None:
        """Takes note, records, and decides; None where nothing is to be done now."""
        snapshot = self.look()
        for look in self.helpers.look:
            look(snapshot)
        if not self.may_act():
            return None
        for provider in dict.fromkeys(self.providers.values()):
            provider.attend(bool(snapshot.unbound))
        for act in self.helpers.act:
            act(snapshot)
        self.record(snapshot)
        if self._is_blind():
            return None
        return snapshot, in_portions(decide(snapshot, self.writer.over))

    def _act(self, snapshot: Snapshot, actions: list[Action]) -> tuple[Snapshot, list[Done]]:
        return snapshot, self.executor.apply(actions)

    def _finish(self, snapshot: Snapshot, done: list[Done]) -> list[Done]:
        """What was done is known before a watch tells of it, and makes room for more."""
        self._take_back(done)
        for told in self.helpers.told:
            told(snapshot, done)
        if any(result.error is None for result in done):
            self.wake.set()
        return done

    def look_around(self) -> Snapshot:
        """What is known, once helpers have found out what they can."""
        snapshot = self.look()
        for look in self.helpers.look:
            look(snapshot)
        for ask in self.helpers.ask:
            ask()
        return self.look()

    def plan(self) -> list[Action]:
        """What a tick would do now."""
        return decide(self.look_around(), self.writer.over)

    def look(self) -> Snapshot:
        """What is known at this moment."""
        now, state = self.now(), self.state
        if self.sources.errors():
            self._reachable_since = now
        self.sources.drain(state, now)
        machines = [
            machine
            for provider in dict.fromkeys(self.providers.values())
            for machine in provider.machines(state.nodes)
            if machine.pool in self.pools
        ]
        state.take_machines(machines, self._price)
        state.forget_attempts(self.writer.over)
        failures = {name: p.failures(name) for name, p in self.providers.items()}
        return Snapshot(
            now=now,
            pools=self.pools,
            teams=self.teams,
            attempts=dict(state.attempts),
            machines=dict(state.machines),
            nodes=dict(state.nodes),
            prices=state.prices,
            idle_since=state.idle_since,
            owners_over=self.helpers.owners_over(),
            hints=self.helpers.hints(),
            counted=self.helpers.counted(),
            failures={name: why for name, why in failures.items() if why},
            keeps_logs=self.helpers.keeps_logs,
            logs=self.helpers.kept_logs(),
            expected_gpus=self.expected_gpus,
            reachable_since=self._reachable_since,
        )

    def record(self, snapshot: Snapshot) -> None:
        """Hands to the ledger what is new about attempts and machines that have changed."""
        state, again = self.state, set()
        for name in state.changed_machines & snapshot.machines.keys():
            machine = snapshot.machines[name]
            self.writer.put(events_of_machine(machine, self._steps(machine), snapshot.now))
            if not buyer_is_known(machine, snapshot.now):
                again.add(name)
        for name in state.changed_attempts & snapshot.attempts.keys():
            attempt = snapshot.attempts[name]
            self.writer.put(
                events_of_attempt(attempt, snapshot.machine_on, snapshot.now, snapshot.counted)
            )
        state.changed_machines = again
        state.changed_attempts = set()
        if state.dropped:
            self.writer.forget(state.dropped - snapshot.attempts.keys())
            state.dropped = set()

    def _is_blind(self) -> bool:
        problems = self.sources.errors()
        if problems and not self._blind:
            logger.warning("nothing is done until all is seen again: %s", "; ".join(problems))
        elif self._blind and not problems:
            logger.info("all is seen again")
        self._blind = bool(problems)
        return self._blind

    def _take_back(self, done: list[Done]) -> None:
        """What was changed is known before a watch tells of it."""
        for result in done:
            for pod in result.pods:
                self.state.take_pod(pod)
            for node in result.nodes:
                self.state.take_node(node)

    def _steps(self, machine: MachineSeen) -> Any:
        return price_steps(machine, self.pools[machine.pool], self.books[machine.pool])

    def _price(self, machine: MachineSeen) -> Decimal | None:
        steps = self._steps(machine)
        if steps:
            last: Decimal | None = steps[-1].usd_per_hour
            return last
        book = self.books[machine.pool]
        found = book.find(machine.instance_type or "")
        return None if found is None else found.usd_per_hour


def in_portions(actions: Iterable[Action]) -> list[Action]:
    """The most urgent first; of what can wait only a few: the next tick decides the rest."""
    left = dict(MOST_AT_ONCE)
    taken = []
    for action in sorted(actions, key=lambda action: URGENCY.index(action.kind)):
        if action.kind in left:
            left[action.kind] -= 1
            if left[action.kind] < 0:
                continue
        taken.append(action)
    return taken
