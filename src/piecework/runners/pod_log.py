"""The log of a pod as one growing sequence of bytes, each of them once, whatever breaks meanwhile.

Enters: a pod's log, followed by a thread that begins when somebody first reads it. Leaves: bytes by
their offset, as from a file. Every line comes with its time; after a break the log is asked for
from the last line's time on, and what is known already is dropped. What was read is kept in an
unnamed file, so that it costs no memory and nothing is left of it.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from piecework.errors import ClusterError, PieceworkError

#: Opens the log: from a time on, or from its beginning, and whether to follow it to its end.
#: Raises ClusterError.
Open = Callable[[datetime | None, bool], Iterable[bytes]]

#: What is kept of a log at most; programs that print more are told so in it.
MOST_BYTES = 256 * 2**20
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
#: A kubelet that refuses to show the log is asked less and less often.
_LONGEST_REFUSED_SECONDS = 120.0
#: A reader of what has ended waits this long for the rest to arrive, and whoever reads first for
#: what there is.
REST_SECONDS, FIRST_SECONDS = 20.0, 5.0
#: How often a log that is over, but cannot be read, is asked for.
_LAST_TRIES = 3

#: Seconds since 1970 and nanoseconds.
Stamp = tuple[int, int]


class PodLog(threading.Thread):
    """Follows one log. `is_over` says whether the program has ended, so that no more will come."""

    def __init__(
        self,
        name: str,
        open_log: Open,
        is_over: Callable[[], bool],
        pause_seconds: float = _FIRST_PAUSE_SECONDS,
        on_growth: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_growth` is called, by the thread, whenever there are more bytes to read."""
        super().__init__(daemon=True, name=f"log of {name}")
        self._open = open_log
        self._is_over = is_over
        self._on_growth = on_growth
        self._first_pause = pause_seconds
        self._file, path = tempfile.mkstemp(prefix="piecework-log-")
        Path(path).unlink()
        weakref.finalize(self, os.close, self._file)
        self._size = 0
        self._full = False
        self._grown = threading.Condition()
        self._begun = threading.Event()
        self._hurry = threading.Event()
        #: Whether all that there is has been read.
        self.complete = False
        #: Why the log could not be read to its end, where that is so.
        self.error: str | None = None
        self._last: Stamp | None = None
        self._at_last = 0

    def run(self) -> None:
        """Reads until the program has ended and its log was read once more after that."""
        pause, longest, failures = self._first_pause, _LONGEST_PAUSE_SECONDS, 0
        while True:
            over, first, before = self._is_over(), not self._begun.is_set(), self._size
            try:
                self._read(follow=not (over or first))
                failures, longest = 0, _LONGEST_PAUSE_SECONDS
                if over:
                    break
            except PieceworkError as error:
                failures += 1
                if over and (failures >= _LAST_TRIES or not _may_come(error)):
                    self.error = str(error)
                    break
                if not _may_come(error):
                    longest = _LONGEST_REFUSED_SECONDS
            self._begun.set()
            if self._size > before:
                pause = self._first_pause
            if failures or not (first or self._is_over()):
                # Whoever waits for the end of what is over need not wait for this.
                if self._hurry.wait(pause):
                    self._hurry.clear()
                    pause = self._first_pause
                else:
                    pause = min(longest, pause * 2)
        with self._grown:
            self.complete = True
            self._begun.set()
            self._grown.notify_all()

    def read(self, offset: int, limit: int, *, wait: bool = False) -> bytes:
        """Bytes from an offset; empty at the present end.

        The first reader waits a moment for what there is. With `wait`, for what has ended: waits
        until there are bytes, or surely none any more.
        """
        self._begun.wait(FIRST_SECONDS)
        if wait and not self.complete:
            self._hurry.set()
            with self._grown:
                self._grown.wait_for(lambda: self.complete or self._size > offset, REST_SECONDS)
        return os.pread(self._file, min(limit, max(0, self._size - offset)), offset)

    def _read(self, *, follow: bool) -> None:
        """Reads one answer to its end, line by line."""
        mark, repeated = self._last, self._at_last
        kept = b""
        since = None if mark is None else datetime.fromtimestamp(mark[0], UTC)
        for piece in self._open(since, follow):
            *lines, kept = (kept + piece).split(b"\n")
            new = []
            for line in lines:
                stamp, text = split_stamp(line + b"\n")
                if stamp is not None and mark is not None and stamp <= mark:
                    if stamp < mark:
                        continue
                    if repeated > 0:
                        repeated -= 1
                        continue
                self._note(stamp)
                new.append(text)
            self._write(b"".join(new))
        if kept and self._is_over():  # a last line that was not ended
            stamp, text = split_stamp(kept)
            if stamp is None or mark is None or stamp > mark or (stamp == mark and repeated == 0):
                self._note(stamp)
                self._write(text)

    def _note(self, stamp: Stamp | None) -> None:
        """Counts the lines of the last moment: several may have the same."""
        if stamp is None:
            return
        self._at_last = self._at_last + 1 if stamp == self._last else 1
        self._last = stamp

    def _write(self, data: bytes) -> None:
        if not data or self._full:
            return
        if self._size + len(data) > MOST_BYTES:
            self._full = True
            data = b"\n[piecework: the rest of this log was dropped here]\n"
        os.pwrite(self._file, data, self._size)
        with self._grown:
            self._size += len(data)
            self._grown.notify_all()
        self._on_growth()


def split_stamp(line: bytes) -> tuple[Stamp | None, bytes]:
    """The time at the beginning of a line of a log, and the line without it."""
    head, separator, text = line.partition(b" ")
    if not separator or len(head) < 20 or head[10:11] != b"T":
        return None, line
    try:
        whole, _, fraction = head.rstrip(b"Z").decode().partition(".")
        zone_at = max(fraction.rfind("+"), fraction.rfind("-"))
        digits, zone = (fraction[:zone_at], fraction[zone_at:]) if zone_at > 0 else (fraction, "")
        at = datetime.fromisoformat(f"{whole}{zone or '+00:00' if len(whole) == 19 else ''}")
        return (int(at.timestamp()), int(digits.ljust(9, "0")[:9] or 0)), text
    except (ValueError, UnicodeDecodeError):
        return None, line


def _may_come(error: PieceworkError) -> bool:
    """Whether the log may be there at the next try."""
    return isinstance(error, ClusterError) and error.retryable
