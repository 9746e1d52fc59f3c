"""The log of an attempt: what its program printed, byte for byte, without filling the disk.

The program writes straight into the file, so it never waits for anybody and the log outlives
everyone. Of a very long log the first and the last part are kept: while it grows, its middle is
given back to the file system (a hole); when the attempt ends, the two parts are put together with a
line between them that says how much is missing. Readers see the first part until then, so an offset
once read stays valid.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

MEBI = 2**20
#: How much is kept of the beginning, and of the end.
HEAD_BYTES = 64 * MEBI
TAIL_BYTES = 64 * MEBI
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2
#: Where a finished log whose middle is missing has been put together; holds nothing.
_MARK = "log.shortened"


class LogLimit:
    """Keeps the log of a running program within its limit. Call `enforce` often."""

    def __init__(self, path: Path, head: int = HEAD_BYTES, tail: int = TAIL_BYTES) -> None:
        self.path = path
        self.head = head
        self.tail = tail
        self._freed_to = head

    def enforce(self) -> None:
        """Frees what is neither among the first nor among the last bytes. Cheap while short."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return
        if size - self.tail - self._freed_to < self.tail // 8:
            return
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            start, end = self._freed_to, size - self.tail
            if _punch_hole(descriptor, start, end - start):
                self._freed_to = end
            else:  # this file system has no holes: the beginning is kept, the rest begins anew
                os.ftruncate(descriptor, self.head)
        finally:
            os.close(descriptor)

    def finish(self) -> None:
        """Puts the two parts together once nobody writes any more. Can be done twice."""
        mark = self.path.with_name(_MARK)
        try:
            size = self.path.stat().st_size
        except OSError:
            return
        if size <= self.head + self.tail or mark.exists():
            return
        dropped = size - self.head - self.tail
        line = f"\n[piecework: {dropped} bytes of this log were dropped here]\n".encode()
        with self.path.open("r+b") as stream:
            stream.seek(size - self.tail)
            tail = stream.read(self.tail)
            mark.touch()
            stream.seek(self.head)
            stream.write(line)
            stream.write(tail)
            stream.truncate()


def read(path: Path, offset: int, limit: int, *, ended: bool, head: int = HEAD_BYTES) -> bytes:
    """Bytes of the log from `offset`, at most `limit`; empty at what is its end for now."""
    if not ended:
        limit = min(limit, head - offset)
    if limit <= 0:
        return b""
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(limit)
    except FileNotFoundError:
        return b""


def _punch_hole(descriptor: int, start: int, length: int) -> bool:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    with suppress(OSError):
        result: int = call(descriptor, _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, start, length)
        return result == 0
    return False
