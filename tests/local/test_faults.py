"""What kills attempts, and what must be left: no process, no open occupancy, one bill."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from piecework import clock
from piecework.config import load
from piecework.errors import LedgerError, RunnerError
from piecework.keeper import tend
from piecework.ledger.events import Kind, Outcome
from piecework.runners.folder import AttemptFolder
from piecework.runners.local import make_order
from tests.local.attempts import Place, can_use_cgroups, kill, place, wait_for

SLEEP = "import time; print('ready'); time.sleep(600)"

#: A program that leaves a daemon (forked twice, in its own session) which ignores SIGTERM.
DAEMON = """
    import os, signal, sys, time
    def daemon():
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        os.wait()
    daemon()
    print("ready")
    """


@pytest.fixture
def here(home: Path, tmp_path: Path) -> Iterator[Place]:
    with place(home, tmp_path / "code") as found:
        yield found


@pytest.fixture(params=["cgroup", "watch"])
def enforcement(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which limits are enforced and leftovers are found."""
    if request.param == "watch":
        monkeypatch.setenv("PIECEWORK_ENFORCEMENT", "watch")
    elif not can_use_cgroups():
        pytest.skip("needs a cgroup hierarchy that this user may write")
    return str(request.param)


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that holds the identity of the host's boot; writing another one is a reboot."""
    file = tmp_path / "boot_id"
    file.write_text("before")
    monkeypatch.setenv("PIECEWORK_BOOT_ID_FILE", str(file))
    return file


def program_of(here: Place, attempt: str) -> int:
    """The process of the user's program: the child of the entrypoint."""
    entrypoint = here.entrypoint_of(attempt)
    found = [
        int(child)
        for task in Path(f"/proc/{entrypoint}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    assert len(found) == 1
    return found[0]


def tend_until_ended(here: Place, attempt: str) -> None:
    def ended() -> bool:
        tend(here.settings)
        return here.folder(attempt).ended() is not None

    wait_for(ended, f"the keeper closes {attempt}")


def test_a_killed_program_is_never_a_success(here: Place, enforcement: str) -> None:
    attempt = here.start(SLEEP)
    here.wait_for_log(attempt, "ready")
    kill(program_of(here, attempt))
    status = here.wait(attempt)
    assert status.outcome is Outcome.ERROR
    assert "SIGKILL" in (status.cause or "")
    here.assert_settled(attempt)


def test_a_killed_entrypoint_takes_the_program_with_it(here: Place, enforcement: str) -> None:
    attempt = here.start(SLEEP)
    here.wait_for_log(attempt, "ready")
    kill(here.entrypoint_of(attempt))
    status = here.wait(attempt)
    assert status.outcome is Outcome.INTERRUPTED
    here.assert_settled(attempt)


def test_a_killed_supervisor_takes_the_program_with_it(here: Place, enforcement: str) -> None:
    attempt = here.start(SLEEP)
    here.wait_for_log(attempt, "ready")
    kill(here.supervisor_of(attempt))
    wait_for(lambda: not here.processes(attempt), "the entrypoint ends the program")
    status = here.wait(attempt)
    assert status.outcome is Outcome.INTERRUPTED
    assert status.cause == "its supervisor was killed"
    here.assert_settled(attempt)


def test_nothing_outlives_the_supervisor_and_the_entrypoint(here: Place, enforcement: str) -> None:
    attempt = here.start(DAEMON + "time.sleep(600)\n")
    here.wait_for_log(attempt, "ready")
    supervisor, entrypoint = here.supervisor_of(attempt), here.entrypoint_of(attempt)
    kill(supervisor)
    kill(entrypoint)
    tend_until_ended(here, attempt)
    assert here.status(attempt).outcome is Outcome.INTERRUPTED
    here.assert_settled(attempt)


def test_a_reboot_closes_what_ran_and_what_waited(here: Place, boot: Path) -> None:
    everything = len(os.sched_getaffinity(0))
    running = here.start(SLEEP, "test.running.0", cpus=everything)
    here.wait_for_log(running, "ready")
    waiting = here.start(SLEEP, "test.waiting.0", cpus=everything)
    here.wait_for_reason(waiting, "busy")
    for pid in [
        here.supervisor_of(waiting),
        here.supervisor_of(running),
        *here.processes(running),
    ]:
        with contextlib.suppress(ProcessLookupError):  # they end each other
            kill(pid)
    boot.write_text("after")
    closed: set[str] = set()

    def all_closed() -> bool:  # a killed process takes a moment to let its lock go
        closed.update(tend(here.settings).closed)
        return closed == {running, waiting}

    wait_for(all_closed, "the keeper closes both")
    assert here.status(running).outcome is Outcome.INTERRUPTED
    assert here.status(running).cause == "this computer was restarted"
    assert here.status(waiting).outcome is Outcome.NEVER_STARTED
    assert tend(here.settings).closed == ()
    here.assert_settled(running, waiting)
    gone = [e for e in here.machine_events() if e.kind is Kind.MACHINE_GONE]
    assert [event.data["cause"] for event in gone] == ["lost"]
    again = here.start("print('again')", "test.running.0", number=2, cpus=everything)
    assert here.wait(again).outcome is Outcome.SUCCESS
    here.assert_settled(running, waiting, again)


def test_a_waiting_run_frees_the_machine_of_a_dead_one(here: Place) -> None:
    everything = len(os.sched_getaffinity(0))
    dead = here.start(SLEEP, "test.dead.0", cpus=everything)
    here.wait_for_log(dead, "ready")
    waiting = here.start("print()", "test.waiting.0", cpus=everything)
    here.wait_for_reason(waiting, "busy")
    kill(here.supervisor_of(dead))
    assert here.wait(waiting).outcome is Outcome.SUCCESS
    assert here.folder(dead).ended() is not None
    here.assert_settled(dead, waiting)


def test_daemons_of_a_program_end_with_it(here: Place, enforcement: str) -> None:
    attempt = here.start(DAEMON)
    assert here.wait(attempt).outcome is Outcome.SUCCESS
    assert here.processes(attempt) == []
    here.assert_settled(attempt)


def test_a_program_that_ignores_the_polite_signal_is_killed(here: Place) -> None:
    attempt = here.start(
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('ready'); time.sleep(600)"
    )
    here.wait_for_log(attempt, "ready")
    here.runner.cancel(attempt, "enough")
    assert here.wait(attempt).outcome is Outcome.CANCELLED
    assert here.processes(attempt) == []
    here.assert_settled(attempt)


def test_a_program_that_forks_without_end_is_ended(here: Place, enforcement: str) -> None:
    attempt = here.start(
        """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:  # at any time a few are alive, always others
            if os.fork() == 0:
                os.setsid()
                continue
            time.sleep(0.02)
            os._exit(0)
        """
    )
    here.wait_for_log(attempt, "ready")
    status = here.wait(attempt)  # its first process has exited with 0
    assert status.outcome is Outcome.SUCCESS
    here.assert_settled(attempt)


FILL = """
    import sys, time
    hoard = []
    print("ready", flush=True)
    while True:
        hoard.append(bytearray(b"x") * (8 << 20))
        time.sleep(0.01)
    """


def test_a_program_that_fills_its_memory_is_out_of_memory(here: Place, enforcement: str) -> None:
    attempt = here.start(FILL, memory="200Mi")
    status = here.wait(attempt)
    assert status.outcome is Outcome.OUT_OF_MEMORY
    assert "200 MiB" in (status.cause or "")
    assert "137" not in (status.cause or "")
    ended = here.folder(attempt).ended()
    assert ended is not None
    assert ended.data["use"]["peak_memory_bytes"] >= 150 << 20
    here.assert_settled(attempt)


def test_a_child_that_fills_the_memory_is_out_of_memory_too(here: Place, enforcement: str) -> None:
    attempt = here.start(
        f"import subprocess, sys\nprogram = {FILL!r}\nimport textwrap\n"
        "code = subprocess.run(['sh', '-c', sys.executable + ' -c \"$0\"; exit $?', "
        "textwrap.dedent(program)]).returncode\nprint('the shell says', code)\n"
        "import time; time.sleep(3); sys.exit(1)",
        memory="200Mi",
    )
    assert here.wait(attempt).outcome is Outcome.OUT_OF_MEMORY
    here.assert_settled(attempt)


def test_memory_shared_by_many_processes_counts_once(here: Place) -> None:
    os.environ["PIECEWORK_ENFORCEMENT"] = "watch"  # unset again by the fixture `home`
    try:
        attempt = here.start(
            """
            import os, time
            shared = bytearray(b"x") * (120 << 20)
            children = []
            for _ in range(4):
                if (pid := os.fork()) == 0:
                    time.sleep(1.5)
                    os._exit(0)
                children.append(pid)
            for pid in children:
                os.waitpid(pid, 0)
            """,
            memory="250Mi",
        )
    finally:
        del os.environ["PIECEWORK_ENFORCEMENT"]
    assert here.wait(attempt).outcome is Outcome.SUCCESS
    here.assert_settled(attempt)


def test_an_order_that_nobody_carried_out_is_closed(here: Place) -> None:
    request = here.request("print()")
    order = make_order(request, here.settings, _long_ago())
    folder = AttemptFolder(here.home / "runs" / request.run / "1")
    assert folder.write_order(order)
    assert not folder.write_order(order)
    assert tend(here.settings).closed == (request.attempt,)
    status = here.status(request.attempt)
    assert status.outcome is Outcome.NEVER_STARTED
    here.runner.start(request)  # finds it, ended
    assert not folder.supervisor.exists()
    here.assert_settled(request.attempt)


def _long_ago() -> datetime:
    return clock.now() - timedelta(hours=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB, which can be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs to mount a small disk, which this user may not")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill(disk: Path) -> Path:
    """Takes all the room that is left; removing the file gives it back."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    stream.write(b"x" * size)
            except OSError:
                continue
    return ballast


def test_a_full_disk_stops_a_start_clearly(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIECEWORK_HOME", str(small_disk / "home"))
    (small_disk / "home").mkdir()
    with place(small_disk / "home", tmp_path / "code") as here:
        ballast = fill(small_disk)
        with pytest.raises(RunnerError, match="cannot be written"):
            here.start("print()")
        ballast.unlink()
        attempt = here.start("print('now')")
        assert here.wait(attempt).outcome is Outcome.SUCCESS
        here.assert_settled(attempt)


def test_a_disk_that_fills_up_loses_neither_the_end_nor_the_bill(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIECEWORK_HOME", str(small_disk / "home"))
    with place(small_disk / "home", tmp_path / "code") as here:
        flag = tmp_path / "go"
        attempt = here.start(
            f"import os, time\nwhile not os.path.exists({str(flag)!r}): time.sleep(0.05)"
        )
        here.wait(attempt, "started")
        supervisor = here.supervisor_of(attempt)
        ballast = fill(small_disk)
        flag.touch()
        wait_for(lambda: not here.processes(attempt)[1:], "the program ends")
        with pytest.raises(LedgerError):
            tend(load())
        assert Path(f"/proc/{supervisor}").exists()
        ballast.unlink()
        assert here.wait(attempt).outcome is Outcome.SUCCESS
        here.assert_settled(attempt)


def test_a_ledger_that_is_away_is_written_later(
    here: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (here.home).mkdir(exist_ok=True)
    blocked = here.home / "ledger.sqlite"
    blocked.mkdir()  # no database can be opened here
    attempt = here.start("print()")
    assert here.wait(attempt).outcome is Outcome.SUCCESS
    with pytest.raises(LedgerError):
        tend(here.settings)
    shutil.rmtree(blocked)
    here.assert_settled(attempt)
