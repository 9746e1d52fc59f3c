"""What the keeper can do to a cluster. Data only: decided by pure functions, done by `apply`.

Every action can be done twice, and says in one sentence what it does and why: that sentence is the
output of `--dry-run`, the line in the log, and, where it ends something, the cause in the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen
from piecework.ledger.events import Outcome
from piecework.machines.provider import MachineSeen
from piecework.runners.pods import deletion_of


@dataclass(frozen=True, slots=True)
class Admit:
    """Opens the gates of all own pods of an attempt. `handed` are the machines that it takes over.

    `told` is what it waits for from now on, where a machine has to be bought.
    """

    attempt: AttemptSeen
    at: datetime
    handed: tuple[MachineSeen, ...] = ()
    told: str | None = None
    kind = "admit"

    @property
    def pods(self) -> tuple[PodSeen, ...]:
        """The pods whose gates it opens."""
        return self.attempt.own

    def __str__(self) -> str:
        if not self.handed:
            return f"admit {self.attempt.id}: a machine is to be bought for it"
        names = ", ".join(machine.id for machine in self.handed)
        return f"admit {self.attempt.id}: it takes over {names}"


@dataclass(frozen=True, slots=True)
class AdmitFollowers:
    """Opens the gates of pods that an attempt's engine has made. `handed`: see Admit."""

    attempt: AttemptSeen
    pods: tuple[PodSeen, ...]
    at: datetime
    handed: tuple[MachineSeen, ...] = ()
    told = None
    kind = "admit-followers"

    def __str__(self) -> str:
        names = ", ".join(machine.id for machine in self.handed)
        over = f"; it takes over {names}" if names else ""
        return f"admit {len(self.pods)} more pods of {self.attempt.id}{over}"


@dataclass(frozen=True, slots=True)
class TellWaiting:
    """Writes on an attempt's first pod why it is not admitted, or does not run."""

    pod: PodSeen
    reason: str
    since: datetime
    number: int
    kind = "tell-waiting"

    def __str__(self) -> str:
        return f"tell {self.pod.attempt} why it waits: {self.reason}"


@dataclass(frozen=True, slots=True)
class EndAttempt:
    """Ends an attempt's pods: writes why, unless that is written, and deletes them.

    `only`: it ends these of its pods, and goes on without them, or is over already.
    `force`: nobody is there to end them; their objects are all that is left.
    """

    attempt: AttemptSeen
    outcome: Outcome
    cause: str
    at: datetime
    force: bool = False
    only: tuple[PodSeen, ...] = ()
    kind = "end"

    @property
    def pods(self) -> tuple[PodSeen, ...]:
        """The pods that it ends."""
        return self.only or self.attempt.pods

    def __str__(self) -> str:
        if self.only:
            names = ", ".join(pod.key[1] for pod in self.only)
            return f"end {names} of {self.attempt.id}: {self.cause}"
        return f"end {self.attempt.id} ({self.outcome}): {self.cause}"


@dataclass(frozen=True, slots=True)
class NoteDeletion:
    """Writes on a pod that somebody deletes it, and since when.

    Its object forgets that: when its kubelet has ended it, it has the time of that instead, and a
    program that was told to end would look like one that had ended before.
    """

    pod: PodSeen
    at: datetime
    kind = "note-deletion"

    @property
    def cause(self) -> str:
        return deletion_of(self.pod.raw)

    def __str__(self) -> str:
        return f"note that somebody deletes pod {'/'.join(self.pod.key)}"


@dataclass(frozen=True, slots=True)
class MarkRecorded:
    """Writes on a pod that all of it is in the ledger, and its log kept."""

    pod: PodSeen
    kind = "mark-recorded"

    def __str__(self) -> str:
        return f"mark pod {'/'.join(self.pod.key)} as recorded"


@dataclass(frozen=True, slots=True)
class RemovePod:
    """Takes the finalizer off a pod whose end is in the ledger, and deletes it."""

    pod: PodSeen
    why: str
    kind = "remove-pod"

    def __str__(self) -> str:
        return f"remove pod {'/'.join(self.pod.key)}: {self.why}"


@dataclass(frozen=True, slots=True)
class StampMachine:
    """Writes down for which attempt a machine was bought, and holds its record."""

    machine: MachineSeen
    attempt: str | None
    kind = "stamp-machine"

    def __str__(self) -> str:
        return (
            f"note that machine {self.machine.id} was bought for {self.attempt or 'nobody known'}"
        )


@dataclass(frozen=True, slots=True)
class NoteInterruption:
    """Writes down that a machine's seller takes it away, also on the pods that run there."""

    machine: MachineSeen
    at: datetime
    pods: tuple[PodSeen, ...] = ()
    kind = "note-interruption"

    def __str__(self) -> str:
        return f"note that machine {self.machine.id} is taken away by its seller"


@dataclass(frozen=True, slots=True)
class Release:
    """Decides to give a machine back: it gets no more pods."""

    machine: MachineSeen
    at: datetime
    reason: str
    kind = "release"

    def __str__(self) -> str:
        return f"give machine {self.machine.id} back: {self.reason}"


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Tells the seller of a released machine."""

    machine: MachineSeen
    kind = "give-back"

    def __str__(self) -> str:
        return f"return machine {self.machine.id} to its seller"


@dataclass(frozen=True, slots=True)
class ForgetMachine:
    """Lets go of the record of a machine that is gone and in the ledger."""

    machine: MachineSeen
    kind = "forget-machine"

    def __str__(self) -> str:
        return f"let go of the record of machine {self.machine.id}"


Action = (
    Admit
    | AdmitFollowers
    | TellWaiting
    | EndAttempt
    | NoteDeletion
    | MarkRecorded
    | RemovePod
    | StampMachine
    | NoteInterruption
    | Release
    | GiveBack
    | ForgetMachine
)
