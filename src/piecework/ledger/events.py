"""What happened: the only thing that the ledger stores.

An event's identity is made from its source, subject, kind and sequence, so writing it again
changes nothing. Standard library only: supervisors import this before anything is installed.

Kinds and what their `data` holds (every value is JSON; money and CPU are decimal strings):

    subject: a machine
    machine.requested   pool, provider, instance_type, attempt (for which it is bought), as_if
    machine.launched    the provider's meter starts; minimum_seconds, increment_seconds, billing
                        (the provider's rule by name), spot
    machine.price       usd_per_hour (a decimal string, or null: unpriced), currency, source,
                        as_of; valid from the event's time until the next price of this machine
    machine.joined      it is part of the cluster
    machine.ready       it can take work
    machine.occupied    attempt: from now on it belongs to this attempt alone
    machine.vacated     attempt: the attempt's last process is gone from it
    machine.released    reason: it was given back
    machine.gone        the provider's meter stops; cause (returned, interrupted, lost,
                        never-joined)

    subject: an attempt
    attempt.queued      run, attempt (its number, from 1), job, pipeline, pipeline_run, team,
                        engine, pool, priority, cpu, memory_bytes, gpu, count, owner
    attempt.waiting     reason: why it does not run yet, in words for its user
    attempt.admitted    machines (list of ids), instance_type; once more for each machine that it
                        is given later, which has that one alone
    attempt.scheduled   pulling, started: {}
    attempt.ended       outcome, cause (one sentence), exit_code, use: {cpu_seconds,
                        peak_memory_bytes, read_bytes, written_bytes} (each may be null), with
                        counted_seconds: how much of the time that is, where a kubelet counted, and
                        of these engines spark: {wall_seconds, driver_seconds, busy_seconds, ...},
                        dask: {threads, busy_seconds, wall_seconds}; artifacts: how many files
                        are in the store
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from piecework import clock


class Kind(StrEnum):
    """What happened to a machine or an attempt."""

    MACHINE_REQUESTED = "machine.requested"
    MACHINE_LAUNCHED = "machine.launched"
    MACHINE_PRICE = "machine.price"
    MACHINE_JOINED = "machine.joined"
    MACHINE_READY = "machine.ready"
    MACHINE_OCCUPIED = "machine.occupied"
    MACHINE_VACATED = "machine.vacated"
    MACHINE_RELEASED = "machine.released"
    MACHINE_GONE = "machine.gone"
    ATTEMPT_QUEUED = "attempt.queued"
    ATTEMPT_WAITING = "attempt.waiting"
    ATTEMPT_ADMITTED = "attempt.admitted"
    ATTEMPT_SCHEDULED = "attempt.scheduled"
    ATTEMPT_PULLING = "attempt.pulling"
    ATTEMPT_STARTED = "attempt.started"
    ATTEMPT_ENDED = "attempt.ended"


class Outcome(StrEnum):
    """Why an attempt ended."""

    SUCCESS = "success"
    ERROR = "error"
    OUT_OF_MEMORY = "out-of-memory"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    NEVER_STARTED = "never-started"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one machine or one attempt.

    `source` names who saw it (`supervisor:HOST`, `sweep:HOST`, `keeper`); `sequence` orders the
    events of one source about one subject and one kind, from 0. `at` is the event's own time,
    `learned_at` the time at which the source learned of it; both UTC.
    """

    source: str
    subject: str
    kind: Kind
    sequence: int
    at: datetime
    learned_at: datetime
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """32 hexadecimal digits; equal for equal source, subject, kind and sequence."""
        parts = json.dumps([self.source, self.subject, str(self.kind), self.sequence])
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()

    def to_json(self) -> str:
        """One line of JSON, which `from_json` reads back."""
        return json.dumps(
            {
                "source": self.source,
                "subject": self.subject,
                "kind": str(self.kind),
                "sequence": self.sequence,
                "at": clock.to_text(self.at),
                "learned_at": clock.to_text(self.learned_at),
                "data": dict(self.data),
            },
            separators=(",", ":"),
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, line: str) -> Event:
        """Raises ValueError or KeyError where the line is not an event."""
        raw = json.loads(line)
        return cls(
            source=raw["source"],
            subject=raw["subject"],
            kind=Kind(raw["kind"]),
            sequence=int(raw["sequence"]),
            at=clock.from_text(raw["at"]),
            learned_at=clock.from_text(raw["learned_at"]),
            data=raw["data"],
        )
