"""The rendezvous of a gang: how the pods of one attempt find each other, and end together.

Enters: who of the gang this is (`Gang`, from the launcher's order). The pod with index 0, the head,
listens on one port; every other one, a worker, asks for the head by its host name until it is
there. They exchange lines of JSON:

    worker   {"token": "...", "index": 2, "offers": {...}}     what this machine brings
    head     {"join": {...}}                                   once the others can join its cluster
    head     {"refused": "why"}                                it is the head of another attempt
    head     {"done": true}                                    the program has ended
    worker   {"out_of_memory": false}                          and then it closes

The connection is the sign of life. A process that dies closes it; of a machine that dies, the
kernel's keep-alive tells within 12 seconds, also where this process is busy. As a program,
`python -P gang.py CONFIG` is a worker: it joins, and runs what its kind of cluster needs.
"""

from __future__ import annotations

import sys

if not __package__:  # run as a file, by the interpreter of the program
    sys.path.insert(0, __file__.rsplit("/", 3)[0])

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from piecework.entrypoint.session import say

#: Where the head listens. Below the ports that systems give to outgoing connections.
PORT = 7420
#: How long the head waits for the others. That a machine never comes, the keeper notices before.
JOIN_SECONDS = 900.0
#: After which silence, in seconds, the kernel asks the other side, how often, and how many times.
_ALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
_UNANSWERED_MILLISECONDS = 12_000
#: How long whoever has connected may take to say who it is, and to say its last word.
_WORD_SECONDS = 10.0
_RETRY_SECONDS = 0.5
_PROGRESS_SECONDS = 15.0
#: How long a worker's program may take to end once the gang is done.
GRACE_SECONDS = 10.0
_LONGEST_LINE = 1 << 20

Message = dict[str, Any]


class GangError(Exception):
    """The gang cannot come together, or has come apart; the message says how."""


@dataclass(frozen=True)
class Gang:
    """Which of an attempt's `count` pods this is, and where the first of them is found.

    `token` is the attempt's own: by it the head knows its workers. `address` is this machine's,
    where it is not that of its host name.
    """

    head: str
    index: int
    count: int
    token: str
    port: int = PORT
    join_seconds: float = JOIN_SECONDS
    address: str | None = None

    @classmethod
    def of(cls, launch: Mapping[str, Any]) -> Gang | None:
        """The gang that a launch is part of; None where it is alone."""
        told = launch.get("gang")
        return cls(**told) if told else None

    @property
    def is_head(self) -> bool:
        """Whether this is the pod that runs the program."""
        return self.index == 0


def own_address(gang: Gang) -> str:
    """The address of this machine for the others: that of its host name, which a kubelet knows."""
    if gang.address is not None:
        return gang.address
    name = socket.gethostname()
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise GangError(f"the address of this machine, {name}, cannot be found: {error}") from error
    return str(found[0][4][0])


class Line:
    """One connection: lines of JSON, one at a time each way."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = b""
        _keep_alive(connection)

    def send(self, message: Message) -> bool:
        """False where nobody is there any more."""
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self, timeout_seconds: float | None = None) -> Message | None:
        """The next message; None where the other side is gone, or says nothing for so long."""
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        try:
            while b"\n" not in self._buffer:
                left = None if until is None else max(0.001, until - time.monotonic())
                self.connection.settimeout(left)
                part = self.connection.recv(1 << 16)
                if not part or len(self._buffer) > _LONGEST_LINE:
                    return None
                self._buffer += part
            line, _, self._buffer = self._buffer.partition(b"\n")
            message = json.loads(line)
        except (OSError, ValueError):
            return None
        finally:
            with contextlib.suppress(OSError):
                self.connection.settimeout(None)
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Says so to the other side at once."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def _keep_alive(connection: socket.socket) -> None:
    """Has the kernel notice that the other machine is gone. Other kinds of sockets need it not."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    limit = socket.TCP_USER_TIMEOUT
    connection.setsockopt(socket.IPPROTO_TCP, limit, _UNANSWERED_MILLISECONDS)


class Head:
    """The head's end of all connections. Others' threads hear; whoever runs the program asks."""

    def __init__(self, gang: Gang) -> None:
        self.gang = gang
        #: What workers bring, by their index; those that came and went are in it too.
        self.offers: dict[int, Mapping[str, Any]] = {}
        #: Workers that were lost, in that order.
        self.lost: list[int] = []
        self._lines: dict[int, Line] = {}
        self._last_words: dict[int, Message] = {}
        self._told: Mapping[str, Any] | None = None
        self._changed = threading.Condition()
        self._is_done = False

    @classmethod
    @contextmanager
    def listen(cls, gang: Gang) -> Iterator[Head]:
        """Hears workers from here on; without `finish`, they learn at the end that it is gone."""
        head, address = cls(gang), own_address(gang)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        where = (address, gang.port)
        listener = socket.create_server(where, family=family, backlog=max(16, gang.count))
        threading.Thread(target=head._accept, args=(listener,), daemon=True).start()
        try:
            yield head
        finally:
            # A thread that waits in accept would keep the socket open.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            head.close()

    def gather(self, told: Mapping[str, Any]) -> Mapping[int, Mapping[str, Any]]:
        """Hands `told` to each worker as it comes; returns what they bring once all are there.

        Raises GangError where that takes too long, or one is lost meanwhile.
        """
        with self._changed:
            self._told = told
            waiting = list(self._lines.values())
        for line in waiting:
            line.send({"join": dict(told)})
        began = last = time.monotonic()
        with self._changed:
            while not (self.lost or self._is_done) and len(self._lines) < self.gang.count - 1:
                now = time.monotonic()
                if now - began > self.gang.join_seconds:
                    break
                if now - last >= _PROGRESS_SECONDS:
                    say(f"{self._count_joined()}; waits for {self._missing()}")
                    last = now
                self._changed.wait(1.0)
            if self.lost:
                raise GangError(
                    f"machine {self.lost[0]} of the gang was lost before the program started"
                )
            if len(self._lines) < self.gang.count - 1:
                raise GangError(
                    f"{self._count_joined()} after {self.gang.join_seconds:g} s, which is as long "
                    f"as the first waits for the others; not there: {self._missing()}. Their pods "
                    "say why"
                )
            return dict(self.offers)

    def finish(self) -> list[Message]:
        """Tells all workers that the program has ended; returns their last words."""
        with self._changed:
            self._is_done = True
            waiting = list(self._lines.values())
        for line in waiting:
            line.send({"done": True})
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, _WORD_SECONDS)
            return list(self._last_words.values())

    def close(self) -> None:
        """Closes all connections."""
        with self._changed:
            self._is_done = True
            waiting = list(self._lines.values())
            self._changed.notify_all()
        for line in waiting:
            line.close()

    def hear(self, connection: socket.socket) -> None:
        """One worker, from its first word to its last; whoever is none is sent away."""
        line = Line(connection)
        first = line.receive(_WORD_SECONDS)
        index = self._welcome(line, first)
        if index is None:
            line.close()
            return
        word = line.receive()
        with self._changed:
            del self._lines[index]
            if word is not None:
                self._last_words[index] = word
            elif not self._is_done:
                self.lost.append(index)
                say(f"machine {index} of the gang is lost")
            self._changed.notify_all()
        line.close()

    def _welcome(self, line: Line, first: Message | None) -> int | None:
        """The worker's index, where it is one of this gang's and the only one of that index."""
        if first is None or first.get("token") != self.gang.token:
            line.send({"refused": "this is the head of another attempt"})
            return None
        index = first.get("index")
        with self._changed:
            if not isinstance(index, int) or not 0 < index < self.gang.count:
                line.send({"refused": f"there is no machine {index} in a gang of this size"})
                return None
            if index in self._lines or self._is_done:
                line.send({"refused": f"machine {index} is there already"})
                return None
            self._lines[index] = line
            self.offers[index] = first.get("offers") or {}
            told = self._told
            self._changed.notify_all()
        if told is not None:
            line.send({"join": dict(told)})
        return index

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # it was closed
            threading.Thread(target=self.hear, args=(connection,), daemon=True).start()

    def _count_joined(self) -> str:
        return f"{len(self._lines) + 1} of the gang's {self.gang.count} machines are there"

    def _missing(self) -> str:
        numbers = [str(n) for n in range(1, self.gang.count) if n not in self._lines]
        return f"machine{'s' * (len(numbers) > 1)} {', '.join(numbers)}"


def connect(gang: Gang) -> socket.socket:
    """A connection to the head, if it is there: its name is looked up each time."""
    return socket.create_connection((gang.head, gang.port), timeout=5)


def join(
    gang: Gang, offers: Mapping[str, Any], connect: Callable[[Gang], socket.socket] = connect
) -> tuple[Line, Mapping[str, Any]]:
    """Waits until the head is there and ready; returns the line to it and what it handed out.

    As long as it takes: the attempt has its own time limit, and the keeper ends a gang whose head
    never comes. Raises GangError where the head was there and is gone.
    """
    began = last = time.monotonic()
    say(f"machine {gang.index} of {gang.count}: looks for the first, {gang.head}:{gang.port}")
    while True:
        try:
            line = Line(connect(gang))
            line.send({"token": gang.token, "index": gang.index, "offers": dict(offers)})
            answer = line.receive()
        except OSError as error:
            why = str(error)
        else:
            if answer is None:
                line.close()
                raise GangError("the first machine of the gang was lost before it was ready")
            if "join" in answer:
                say(f"machine {gang.index} of {gang.count}: has joined")
                return line, answer["join"]
            line.close()
            why = f"it says: {answer.get('refused')}"
        now = time.monotonic()
        if now - last >= _PROGRESS_SECONDS:
            say(f"waits for {gang.head}:{gang.port} since {now - began:.0f} s: {why}")
            last = now
        time.sleep(_RETRY_SECONDS)


def meet(gang: Gang, connect: Callable[[Gang], socket.socket] = connect) -> None:
    """Returns once all machines of the gang are there: where each runs the program by itself.

    Raises GangError where one does not come in time, or is lost before all are there.
    """
    if gang.is_head:
        with Head.listen(gang) as head:
            head.gather({})
            head.finish()
        return
    line, _ = join(gang, {}, connect)
    said = line.receive()
    line.close()
    if said is None or "done" not in said:
        raise GangError("the first machine of the gang was lost before all of it were there")


class Worker:
    """A worker's life once it has joined: its program runs until the head says that it is done."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.program: subprocess.Popen[bytes] | None = None
        self.ended_by: int | None = None
        self._ready = select.poll()
        self._ready.register(line.connection, select.POLLIN)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Somebody ends this pod: its program first."""
        self.ended_by = number
        if self.program is None:
            raise SystemExit(128 + number)
        self.program.terminate()

    def run(self, argv: list[str], env: Mapping[str, str], mark: Path) -> int:
        """Returns the exit code: 0 once the gang is done. `mark` tells that memory ran out."""
        self.program = subprocess.Popen(argv, env={**os.environ, **env})
        try:
            while not self._ready.poll(200):
                code = self.program.poll()
                if code is not None:
                    return self._ended_by_itself(code)
            said = self.line.receive()
            if said is None:
                say("the first machine of the gang is gone, and has not said that it was done")
                return 1
            self.line.send({"out_of_memory": mark.exists()})
            return 0
        finally:
            self.line.close()
            self._end_program(self.program)

    def _ended_by_itself(self, code: int) -> int:
        if self.ended_by is not None:
            return 128 + self.ended_by
        say(f"this machine's part of the gang ended by itself, exit code {code}")
        return code if 0 < code < 256 else 1

    def _end_program(self, program: subprocess.Popen[bytes]) -> None:
        program.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(timeout=GRACE_SECONDS)
        program.kill()
        program.wait()


def worker_argv(python: str, file: Path) -> tuple[str, ...]:
    """The command line of a worker whose config, `worker_file`, is in that file."""
    return (python, "-P", str(Path(__file__)), str(file))


def worker_file(
    gang: Gang,
    kind: str,
    config: Mapping[str, Any],
    offers: Mapping[str, Any],
    out_of_memory: Path,
) -> str:
    """What a worker needs to know, as JSON.

    `kind` names a module of this package with a function `worker(config, told)`: the command line
    and the additional environment of the program that makes this machine a part of the cluster;
    `told` is what the head has handed out (`Head.gather`). `offers` go to the head.
    """
    return json.dumps(
        {
            "gang": asdict(gang),
            "kind": kind,
            "config": dict(config),
            "offers": dict(offers),
            "out_of_memory": str(out_of_memory),
        }
    )


def main() -> int:
    """A worker, as its config says."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_early)
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        line, told = join(Gang(**config["gang"]), config["offers"])
    except GangError as error:
        say(str(error))
        return 1
    worker = Worker(line)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.on_signal)
    argv, env = import_module(f"piecework.entrypoint.{config['kind']}").worker(
        config["config"], told
    )
    return worker.run(list(argv), env, Path(config["out_of_memory"]))


def _end_early(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
