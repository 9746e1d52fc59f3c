"""Keeping the beginning and the end of a long log."""

from __future__ import annotations

from pathlib import Path

from piecework.runners import log
from piecework.runners.log import LogLimit

KIBI = 1024


def limit(path: Path) -> LogLimit:
    return LogLimit(path, head=64 * KIBI, tail=64 * KIBI)


def read(path: Path, offset: int, size: int, ended: bool) -> bytes:
    return log.read(path, offset, size, ended=ended, head=64 * KIBI)


def write(path: Path, kibis: int) -> bytes:
    text = b"".join(b"%09d\n" % number for number in range(kibis * KIBI // 10))
    with path.open("ab", buffering=0) as stream:
        stream.write(text)
    return text


def test_a_short_log_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "log"
    text = write(file, 100)
    limit(file).enforce()
    limit(file).finish()
    assert read(file, 0, 1 << 20, ended=True) == text
    assert read(file, 0, 1 << 20, ended=False) == text[: 64 * KIBI]  # the rest when it has ended


def test_the_middle_of_a_long_log_is_dropped_and_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "log"
    watched = limit(file)
    text = b""
    for _ in range(10):
        text += write(file, 100)
        watched.enforce()
        assert read(file, 0, 1 << 20, ended=False) == text[: 64 * KIBI][: 1 << 20]
    assert file.stat().st_blocks * 512 < 300 * KIBI
    watched.finish()
    watched.finish()
    whole = read(file, 0, 1 << 20, ended=True)
    dropped = len(text) - 128 * KIBI
    line = f"\n[piecework: {dropped} bytes of this log were dropped here]\n".encode()
    assert whole == text[: 64 * KIBI] + line + text[-64 * KIBI :]


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    limit(tmp_path / "log").enforce()
    limit(tmp_path / "log").finish()
    assert read(tmp_path / "log", 0, 10, ended=True) == b""
