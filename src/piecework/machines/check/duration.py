"""Durations as Go programs write them: 10m0s, 0s, 720h."""

from __future__ import annotations

import re
from datetime import timedelta

from piecework.units import parse_duration

_NOTHING = re.compile(r"(0+(ns|us|ms|s|m|h)?)+")


def read_duration(text: str | None) -> timedelta | None:
    """None where it is no duration, or where there is none."""
    if text is None:
        return None
    if _NOTHING.fullmatch(text):
        return timedelta(0)
    try:
        return parse_duration(text)
    except ValueError:
        return None
