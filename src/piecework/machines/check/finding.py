"""What a check tells: what would hurt, how much, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How much it hurts."""

    #: It could not be looked at, or is only worth knowing.
    NOTE = 0
    #: It costs money or time, or will one day.
    WARNING = 1
    #: Jobs do not run, die, or share their machine.
    ERROR = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing. `pool` is None where it concerns the whole cluster.

    `what` says what was found and what follows from it, `fix` what to do.
    """

    severity: Severity
    what: str
    fix: str
    pool: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """For programs."""
        return {
            "severity": str(self.severity),
            "pool": self.pool,
            "what": self.what,
            "fix": self.fix,
        }


RENDER = "apply what `piecework pools render` prints"
RENDER_GROUPS = "set it as `piecework pools render --groups` prints it"


def error(what: str, fix: str, pool: str | None = None) -> Finding:
    """Jobs do not run, die, or share their machine."""
    return Finding(Severity.ERROR, what, fix, pool)


def warning(what: str, fix: str, pool: str | None = None) -> Finding:
    """It costs money or time, or will one day."""
    return Finding(Severity.WARNING, what, fix, pool)


def note(what: str, fix: str, pool: str | None = None) -> Finding:
    """It could not be looked at, or is only worth knowing."""
    return Finding(Severity.NOTE, what, fix, pool)
