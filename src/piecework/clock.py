"""Time, passed in wherever it matters, so that tests can set it.

All times in piecework are aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

#: Returns the current time, aware, in UTC.
Clock = Callable[[], datetime]


def now() -> datetime:
    """The system's time, in UTC."""
    return datetime.now(UTC)


def to_text(at: datetime) -> str:
    """ISO 8601 in UTC with microseconds and a `Z`: sorts as text in order of time.

    Raises ValueError where the zone is missing.
    """
    if at.tzinfo is None:
        raise ValueError(f"the time {at.isoformat()} does not say its zone; use aware times")
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """Reads what `to_text` wrote, or any ISO 8601 time that says its zone.

    Raises ValueError where the zone is missing.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"the time {text!r} does not say its zone; add Z for UTC")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"the time {text!r} is outside of what can be counted with") from None
