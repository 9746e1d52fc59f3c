"""How the pods of a gang find each other, and end together: over pairs of sockets, no network."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from piecework.entrypoint.gang import Gang, GangError, Head, Line, Worker, join

TOKEN = "a-token-of-this-attempt"


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)


class Wire:
    """What leads from workers to one head."""

    def __init__(self, count: int, **gang: Any) -> None:
        self.count = count
        self.gang = gang
        self.head = Head(self.member(0))
        self._open: list[socket.socket] = []

    def member(self, index: int, **changed: Any) -> Gang:
        told = {"head": "first", "index": index, "count": self.count, "token": TOKEN, **self.gang}
        return Gang(**{**told, **changed})

    def connect(self, _: Gang) -> socket.socket:
        mine, heads = socket.socketpair()
        self._open += [mine, heads]
        threading.Thread(target=self.head.hear, args=(heads,), daemon=True).start()
        return mine

    def say(self, message: object) -> Line:
        """A connection on which this was said first."""
        line = Line(self.connect(self.member(1)))
        line.connection.sendall(json.dumps(message).encode() + b"\n")
        return line

    def join(self, index: int, **offers: Any) -> tuple[Line, Any]:
        return join(self.member(index), offers, self.connect)

    def join_soon(self, index: int, **offers: Any) -> list[tuple[Line, Any]]:
        """Joins on a thread of its own; the list gets what it was handed."""
        joined: list[tuple[Line, Any]] = []

        def wait() -> None:
            with suppress(GangError):  # the test may be over before the head is ready
                joined.append(self.join(index, **offers))

        threading.Thread(target=wait, daemon=True).start()
        wait_for(lambda: index in self.head.offers)
        return joined

    def gather_soon(self, told: dict[str, Any]) -> threading.Thread:
        def gather() -> None:
            with suppress(GangError):  # the test may be over before all are there
                self.head.gather(told)

        thread = threading.Thread(target=gather, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        self.head.close()
        for each in self._open:
            with suppress(OSError):
                each.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire(3)
    yield made
    made.close()


def test_the_head_waits_for_all_and_hands_out_what_they_need_to_join(wire: Wire) -> None:
    first = wire.join_soon(1, workers=2)
    second = wire.join_soon(2, workers=4)
    assert first == second == []  # nothing is handed out before the head is ready
    assert wire.head.gather({"scheduler": "tcp://10.0.0.7:1"}) == {
        1: {"workers": 2},
        2: {"workers": 4},
    }
    wait_for(lambda: len(first) + len(second) == 2)
    assert [told for _, told in first + second] == [{"scheduler": "tcp://10.0.0.7:1"}] * 2


def test_whoever_comes_after_the_head_is_ready_is_told_at_once(wire: Wire) -> None:
    wire.join_soon(1)
    gathered = wire.gather_soon({"a": 1})
    _, told = wire.join(2)
    assert told == {"a": 1}
    gathered.join(10)
    assert not gathered.is_alive()


def test_a_gang_that_is_not_complete_in_time_says_who_is_missing() -> None:
    wire = Wire(4, join_seconds=0.05)
    wire.join_soon(2)
    with pytest.raises(
        GangError, match=r"2 of the gang's 4 machines are there after 0.05 s.*machines 1, 3"
    ):
        wire.head.gather({})
    wire.close()


def test_a_machine_that_is_lost_before_the_start_ends_the_gang(wire: Wire) -> None:
    wire.join_soon(1)
    joined = wire.say({"token": TOKEN, "index": 2})
    wait_for(lambda: 2 in wire.head.offers)
    joined.close()
    wait_for(lambda: wire.head.lost)
    with pytest.raises(GangError, match="machine 2 of the gang was lost"):
        wire.head.gather({})


@pytest.mark.parametrize(
    "first",
    [
        {"token": "anothers", "index": 1},
        {"index": 1},
        {"token": TOKEN, "index": 0},
        {"token": TOKEN, "index": 3},
        {"token": TOKEN, "index": "1"},
        [],
        "GET / HTTP/1.1",
    ],
    ids=str,
)
def test_whoever_is_not_of_the_gang_is_sent_away(wire: Wire, first: object) -> None:
    line = wire.say(first)
    answer = line.receive(10)
    assert answer is not None
    assert "refused" in answer
    assert line.receive(10) is None
    assert wire.head.offers == {}


def test_nobody_takes_anothers_place(wire: Wire) -> None:
    wire.join_soon(1, workers=1)
    answer = wire.say({"token": TOKEN, "index": 1, "offers": {"workers": 9}}).receive(10)
    assert answer == {"refused": "machine 1 is there already"}
    assert wire.head.offers == {1: {"workers": 1}}


def test_a_worker_goes_on_asking_until_the_head_is_there(wire: Wire) -> None:
    tries = 0

    def connect(gang: Gang) -> socket.socket:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("there is no such name yet")
        return wire.connect(gang)

    wire.gather_soon({"a": 1})
    _, told = join(wire.member(1), {}, connect)
    assert (tries, told) == (2, {"a": 1})


def test_a_worker_whose_head_vanishes_before_it_is_ready_does_not_wait_on(wire: Wire) -> None:
    mine, heads = socket.socketpair()
    heads.close()
    with pytest.raises(GangError, match="was lost before it was ready"):
        join(wire.member(1), {}, lambda _: mine)


def ready(wire: Wire) -> Line:
    """The line of the only worker of a gang of two, whose head is ready."""
    wire.gather_soon({})
    line, _ = wire.join(1)
    return line


@pytest.fixture
def two() -> Iterator[Wire]:
    made = Wire(2)
    yield made
    made.close()


FOR_EVER = [sys.executable, "-c", "import time; time.sleep(1000)"]


def test_a_worker_ends_well_when_the_head_is_done_and_its_program_with_it(
    two: Wire, tmp_path: Path
) -> None:
    worker, codes = Worker(ready(two)), list[int]()
    mark = tmp_path / "out-of-memory"
    mark.touch()
    life = threading.Thread(target=lambda: codes.append(worker.run(FOR_EVER, {}, mark)))
    life.start()
    assert two.head.finish() == [{"out_of_memory": True}]
    life.join(30)
    assert codes == [0]
    assert worker.program is not None
    assert worker.program.poll() is not None


def test_a_worker_whose_head_vanishes_ends_as_a_failure_and_its_program_with_it(
    two: Wire, tmp_path: Path
) -> None:
    worker, codes = Worker(ready(two)), list[int]()
    life = threading.Thread(target=lambda: codes.append(worker.run(FOR_EVER, {}, tmp_path / "x")))
    life.start()
    two.head.close()
    life.join(30)
    assert codes == [1]
    assert worker.program is not None
    assert worker.program.poll() is not None


@pytest.mark.parametrize(("program", "code"), [("raise SystemExit(3)", 3), ("", 1)])
def test_a_worker_whose_program_ends_by_itself_is_lost_to_the_head(
    two: Wire, tmp_path: Path, program: str, code: int
) -> None:
    worker = Worker(ready(two))
    assert worker.run([sys.executable, "-c", program], {}, tmp_path / "none") == code
    wait_for(lambda: two.head.lost)
    assert two.head.lost == [1]


def test_a_launch_alone_has_no_gang() -> None:
    assert Gang.of({"engine": "dask"}) is None
    told = {"head": "a.piecework", "index": 2, "count": 3, "token": TOKEN}
    gang = Gang.of({"gang": told})
    assert gang is not None
    assert not gang.is_head
