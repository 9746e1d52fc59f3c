"""A real PostgreSQL for tests and benches: on a free port and a socket of its own, gone after use.

    with running_postgresql() as server:
        url = server.create_database()

PostgreSQL refuses to run as root, so root runs it as an unprivileged user.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Server:
    """A running server."""

    folder: Path
    port: int
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def url(self, database: str) -> str:
        """The ledger_url of a database, over TCP."""
        return f"postgresql://piecework@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str) -> str:
        """The same over the unix socket."""
        return f"postgresql://piecework@/{database}?host={self.folder}&port={self.port}"

    def create_database(self) -> str:
        """Creates an empty database; returns its URL."""
        name = f"ledger_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        return self.url(name)

    def execute(self, statement: str) -> None:
        """Runs a statement in the server's own database."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


def find_programs() -> Path | None:
    """The folder of initdb and postgres; None where there is none."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = sorted(
        versions, key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0
    )
    if newest:
        return newest[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextlib.contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[Server]:
    """Starts a server, and stops it however the block ends. `durable`: wait for the disk.

    Raises RuntimeError where it does not start.
    """
    programs = find_programs()
    if programs is None:
        raise RuntimeError("PostgreSQL's initdb is missing (Debian: apt install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="piecework-postgresql-"))
    who = _unprivileged(folder)
    try:
        data = folder / "data"
        initdb: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "piecework",
            "--auth=trust",
            "--no-sync",
        ]
        done = subprocess.run(
            [*initdb, "--encoding=UTF8", "--locale=C"],
            capture_output=True,
            text=True,
            cwd=folder,
            **who,
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stdout}{done.stderr}")
        with _serving(programs, folder, data, who, durable) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: Path) -> dict[str, Any]:
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            os.chown(folder, user.pw_uid, user.pw_gid)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise RuntimeError("root may not run PostgreSQL, and there is no user postgres or nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _serving(
    programs: Path, folder: Path, data: Path, who: dict[str, Any], durable: bool
) -> Iterator[Server]:
    server = Server(folder, _free_port())
    settings = {
        "port": server.port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "fsync": "on" if durable else "off",
        "shared_buffers": "256MB" if durable else "32MB",
    }
    options = [f"-c{name}={value}" for name, value in settings.items()]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            **who,
        )
    try:
        _wait_until_ready(server, process, log)
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # disconnects clients and stops
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    limit = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(server.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > limit:
                said = log.read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"PostgreSQL did not start: {said}") from error
            time.sleep(0.1)
        else:
            return
