"""The first process of a program's tree: `python .../piecework/entrypoint CONTROL REPORT`.

CONTROL and REPORT are file descriptors. From CONTROL comes one line of JSON:

    {"launch": {...}, "environ": {"PIECEWORK_CPUS": "2", ...}, "work": "/.../work",
     "cores": [0, 1], "cgroups": ["/sys/fs/cgroup/.../cgroup.procs"], "forks": [".../pids.max"],
     "grace_seconds": 10}

and later a line `end`; its closing says that the supervisor is gone. Both, and SIGTERM, end the
program: SIGTERM, after the grace SIGKILL, to everything. To REPORT go lines of JSON:

    {"started": pid}   {"failed": "why"}   {"exited": status, "out_of_memory": bool}   {"use": {}}

of which the last has what `use.Use` says.

Standard library only, run from a folder alone, so that any image with Python can carry it.
"""

from __future__ import annotations

import sys

if not __package__:  # run as a folder: make the package importable without installing anything
    sys.path[0] = __file__.rsplit("/", 3)[0]

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from piecework.entrypoint import tree, use
from piecework.entrypoint.data import settle
from piecework.entrypoint.size import size_environment
from piecework.entrypoint.start import CannotStart, Start, own_folder, run_afterwards

#: By these the sweep finds what an attempt left running, so no job may change them.
_IDENTITY = ("PIECEWORK_ATTEMPT", "PIECEWORK_FOLDER")
#: How long reading an engine's own log may take, and where somebody waits for the end.
READ_SECONDS, ENDING_READ_SECONDS = 10.0, 1.0
#: One of the lines of JSON that go to REPORT.
Message = dict[str, Any]


class Entrypoint:
    """One program, from its launch to the end of its last process."""

    def __init__(self, control: int | None, report: Callable[[Message], object]) -> None:
        """`control` is where the order and the end come from; None: `run` gets the order."""
        self.control = control
        self._report = report
        self.buffer = b""
        self.program = 0
        self.status: int | None = None
        self.grace_seconds = 10.0
        self.kill_at: float | None = None
        self.forks: list[str] = []
        self.leftover_seconds = 0.0

    @property
    def is_ending(self) -> bool:
        """Whether somebody asked for the program's end."""
        return self.kill_at is not None

    def run(self, order: dict[str, Any] | None = None) -> int:
        """Starts the program, waits for its end, ends its tree; returns the exit status to use."""
        wakeup, wakeup_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup_in, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        tree.adopt_orphans()
        order = order or self._read_order()
        if order is None:
            return 0  # the supervisor went away before it had said what to start
        _enter_machine(order)
        self.forks = order.get("forks", [])
        self.grace_seconds = float(order.get("grace_seconds", 10.0))
        try:
            start = _prepare(order)
            self.leftover_seconds = start.leftover_seconds
            self.program = _spawn(start)
        except (CannotStart, OSError, ImportError) as error:
            message = str(error) if isinstance(error, CannotStart) else f"cannot start: {error}"
            print(f"piecework: {message}", file=sys.stderr, flush=True)
            self._report({"failed": message})
            return 1
        self._report({"started": self.program})
        self._watch(wakeup)
        exhausted = start.out_of_memory is not None and os.path.exists(start.out_of_memory)  # noqa: PTH110 - no pathlib here
        self._report({"exited": self.status, "out_of_memory": exhausted})
        self._end_tree()
        run_afterwards(Path(order["work"]))
        self._end_tree()
        self._report({"use": {**use.use_of_children(), **self._use_of_engine(order)}})
        return 0

    def _use_of_engine(self, order: dict[str, Any]) -> dict[str, Any]:
        seconds = ENDING_READ_SECONDS if self.is_ending else READ_SECONDS
        try:
            return dict(use.use_of_engine(order["environ"], Path(order["work"]), seconds))
        except Exception as error:
            print(f"piecework: what the engine used is not known: {error!r}", file=sys.stderr)
            return {}

    def _on_signal(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._end_program()

    def _end_tree(self) -> None:
        """Ends what the program left behind; whoever was asked to end had its grace before."""
        grace = self.leftover_seconds if self.kill_at is None else 0.0
        tree.end_all(
            lambda: tree.descendants(os.getpid()), grace, before_kill=lambda: self._allow_forks("0")
        )
        self._allow_forks("max")

    def _allow_forks(self, number: str) -> None:
        """Lets the tree have that many processes: with none to come, the last one can be found."""
        for file in self.forks:
            with contextlib.suppress(OSError), open(file, "w") as stream:  # noqa: PTH123 - no pathlib here
                stream.write(number)

    def _watch(self, wakeup: int) -> None:
        """Returns when the program's main process has been collected."""
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        if self.control is not None:
            poll.register(self.control, select.POLLIN)
        while True:
            ended = tree.reap()
            if self.program in ended:
                self.status = ended[self.program]
                return
            timeout = None
            if self.kill_at is not None:
                left = self.kill_at - time.monotonic()
                if left <= 0:
                    for process in tree.descendants(os.getpid()):
                        tree.send(process, signal.SIGKILL)
                timeout = max(100.0, left * 1000)
            for descriptor, _ in poll.poll(timeout):
                if descriptor == wakeup:
                    os.read(wakeup, 4096)
                elif self._read_line() in (None, "end"):
                    poll.unregister(descriptor)
                    self._end_program()

    def _end_program(self) -> None:
        if self.kill_at is None:
            self.kill_at = time.monotonic() + self.grace_seconds
            process = tree.read_process(self.program) if self.program else None
            if process is not None:
                tree.send(process, signal.SIGTERM)

    def _read_order(self) -> dict[str, Any] | None:
        line = self._read_line()
        return None if line is None else json.loads(line)

    def _read_line(self) -> str | None:
        """The next line from the supervisor; None when it is gone. Waits for it."""
        assert self.control is not None
        while b"\n" not in self.buffer:
            part = os.read(self.control, 1 << 16)
            if not part:
                return None
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()


def _enter_machine(order: dict[str, Any]) -> None:
    """Moves this process, and so all that it starts, into the machine's cgroups and cores."""
    for file in order.get("cgroups", ()):
        with open(file, "w") as stream:  # noqa: PTH123 - pathlib is not needed here
            stream.write("0")
    if order.get("cores"):
        os.sched_setaffinity(0, order["cores"])


def _prepare(order: dict[str, Any]) -> Start:
    """What the starter says, with its files written and its working folder entered."""
    launch = order["launch"]
    work = Path(order["work"])
    starter = import_module(f"piecework.entrypoint.{launch['starter']}")
    environ = size_environment(order["environ"])
    work.mkdir(parents=True, exist_ok=True)
    if launch.get("data"):
        environ |= settle(launch["data"], own_folder(work) / "hadoop")
    os.chdir(work)
    start: Start = starter.prepare(launch, environ, work)
    start.write_files()
    return start


def _spawn(start: Start) -> int:
    # posix_spawn looks the program up in this process's PATH, which may not be the program's.
    program: str | None = start.argv[0]
    if not os.path.isabs(start.argv[0]):  # noqa: PTH117 - no pathlib here
        import shutil

        program = shutil.which(start.argv[0], path=start.env.get("PATH"))
    if program is None:
        raise CannotStart(f"there is no command {start.argv[0]!r}; install it or correct PATH")
    identity = {name: os.environ[name] for name in _IDENTITY if name in os.environ}
    return os.posix_spawn(
        program,
        start.argv,
        {**start.env, **identity},
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM],
    )


def main() -> int:
    """Reads the descriptors from the command line."""
    control, report = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(control, False)
    os.set_inheritable(report, False)

    def tell(message: Message) -> None:
        with contextlib.suppress(OSError):  # without a supervisor the sweep closes the attempt
            os.write(report, json.dumps(message).encode() + b"\n")

    return Entrypoint(control, tell).run()


if __name__ == "__main__":
    sys.exit(main())
