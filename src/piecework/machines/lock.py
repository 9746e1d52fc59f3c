"""A lock that a living process holds on a file, to tell the living from the dead.

It belongs to the open file (an open file description lock), so it passes through `fork`, ends with
the last process that has the file open however that one ended, and can be looked at without being
taken. A process id can be used again by somebody else; such a lock cannot.
"""

from __future__ import annotations

import fcntl
import os
import struct

# struct flock of 64-bit Linux: type, whence, start, length, process id.
_FLOCK = "hhqqi4x"


def hold(path: str | os.PathLike[str]) -> int | None:
    """Takes the lock, making the file where there is none; None where another holds it.

    Returns the file descriptor: the lock is held until it is closed everywhere.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def wait_and_hold(path: str | os.PathLike[str]) -> int:
    """As `hold`, but waits until the lock is free."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, wanted)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_held(path: str | os.PathLike[str]) -> bool:
    """Whether some process holds the lock. Changes nothing."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer: bytes = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
    finally:
        os.close(descriptor)
    kind: int = struct.unpack(_FLOCK, answer)[0]
    return kind != fcntl.F_UNLCK
