"""Ctrl-C while a command cleans up: the cleaning goes on, and a second one leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from piecework.cli import terminal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def cleaning_up(left: str) -> Iterator[None]:
    """Lets the block finish in spite of one interrupt; then raises KeyboardInterrupt.

    After an interrupt (before the block, or in it) another one ends this process at once, after
    saying what may be left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted_before = _interrupt_is_handled()
    seen = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if interrupted_before or seen > 1:
            terminal.say(f"\nLeaving at once: {left}.")
            sys.stderr.flush()
            os._exit(130)
        terminal.say("\nFinishing; press Ctrl-C again to leave at once.")

    before: dict[signal.Signals, Any] = {}
    for name in _SIGNALS:
        if signal.getsignal(name) is not signal.SIG_IGN:
            before[name] = signal.signal(name, interrupt)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    if seen:
        raise KeyboardInterrupt


def _interrupt_is_handled() -> bool:
    """Whether an interrupt is the reason for the cleaning."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
