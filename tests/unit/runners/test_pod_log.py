"""The log of a pod: every line once and in order, whatever breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.kube.client import RefusedError
from piecework.kube.transport import UnreachableError
from piecework.runners.pod_log import PodLog, split_stamp


def stamp(nanoseconds: int) -> bytes:
    """As a kubelet writes times: without the zeros at the end."""
    whole, fraction = divmod(nanoseconds, 10**9)
    at = datetime.fromtimestamp(whole, UTC)
    text = f"{at:%Y-%m-%dT%H:%M:%S}.{fraction:09d}".rstrip("0").rstrip(".")
    return f"{text}Z".encode()


class Kubelet:
    """A log of lines with times; every answer breaks off after so many bytes."""

    def __init__(
        self, lines: list[tuple[int, bytes]], breaks: list[int], tail: bytes = b""
    ) -> None:
        self.lines = lines
        self.tail = tail
        self.breaks = breaks
        self.answers = 0
        self.over = threading.Event()

    def open(self, since: datetime | None, follow: bool) -> Iterable[bytes]:
        self.answers += 1
        from_second = 0 if since is None else int(since.timestamp())
        asked = [(at, text) for at, text in self.lines if at // 10**9 >= from_second]
        whole = b"".join(stamp(at) + b" " + text + b"\n" for at, text in asked)
        if self.tail:
            whole += stamp(2 * 10**18) + b" " + self.tail
        if self.breaks:
            return self._broken(whole[: self.breaks.pop(0)])
        self.over.set()
        return self._pieces(whole)

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        yield from (data[i : i + 7] for i in range(0, len(data), 7))

    def _broken(self, data: bytes) -> Iterator[bytes]:
        yield from self._pieces(data)
        if self.breaks:
            self.over.set()
        raise UnreachableError("broke off")


times = st.lists(st.integers(1, 3 * 10**9), max_size=12).map(sorted)


@given(times, st.lists(st.integers(0, 300), max_size=2), st.sampled_from([b"", b"the end"]))
def test_every_line_comes_once_however_often_the_answer_breaks_off(
    at: list[int], breaks: list[int], tail: bytes
) -> None:
    lines = [(1_700_000_000 * 10**9 + when, b"line %d" % n) for n, when in enumerate(at)]
    kubelet = Kubelet(lines, list(breaks), tail)
    log = PodLog("test", kubelet.open, lambda: True, 0.001)
    log.run()
    assert log.complete
    assert log.error is None
    whole = b"".join(text + b"\n" for _, text in lines) + tail
    assert log.read(0, 1 << 20) == whole
    assert log.read(3, 5) == whole[3:8]


@pytest.mark.parametrize(
    ("line", "seconds", "nanoseconds", "text"),
    [
        (b"2023-11-14T22:13:20Z x\n", 1_700_000_000, 0, b"x\n"),
        (b"2023-11-14T22:13:20.5Z \n", 1_700_000_000, 500_000_000, b"\n"),
        (b"2023-11-14T22:13:20.123456789Z a b", 1_700_000_000, 123_456_789, b"a b"),
        (b"2023-11-14T23:13:20.12+01:00 x", 1_700_000_000, 120_000_000, b"x"),
        (b"2023-11-14T23:13:20+01:00 x", 1_700_000_000, 0, b"x"),
    ],
)
def test_times_are_read_to_the_nanosecond(
    line: bytes, seconds: int, nanoseconds: int, text: bytes
) -> None:
    assert split_stamp(line) == ((seconds, nanoseconds), text)


@given(st.binary(max_size=60))
def test_what_has_no_time_is_taken_as_it_is(line: bytes) -> None:
    found, text = split_stamp(line)
    assert text == line or found is not None


def test_a_log_that_is_refused_after_the_end_is_told() -> None:
    def refuse(since: datetime | None, follow: bool) -> Iterable[bytes]:
        raise RefusedError("no such pod", 404)

    log = PodLog("test", refuse, lambda: True, 0.001)
    log.run()
    assert log.complete
    assert log.error == "no such pod"
    assert log.read(0, 10, wait=True) == b""


def test_a_very_long_log_is_cut_and_says_so() -> None:
    piece = stamp(2 * 10**18) + b" " + b"x" * (1 << 20) + b"\n"
    log = PodLog("test", lambda since, follow: [piece] * 300, lambda: True)
    log.run()
    assert log.read((256 << 20) - (1 << 20), 2 << 20).endswith(b"was dropped here]\n")


def test_whoever_reads_what_is_over_does_not_wait_for_the_next_try() -> None:
    over = threading.Event()
    refused = threading.Event()

    def serve(since: datetime | None, follow: bool) -> Iterable[bytes]:
        if not over.is_set():
            refused.set()
            raise RefusedError("not yet", 400)
        return [stamp(2 * 10**18) + b" done\n"]

    log = PodLog("test", serve, over.is_set, pause_seconds=600)
    log.start()
    assert log.read(0, 10) == b""
    assert refused.wait(10)
    over.set()
    assert log.read(0, 10, wait=True) == b"done\n"
    log.join(10)
    assert log.complete
