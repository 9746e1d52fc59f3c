"""PostgreSQL from Debian, reachable from pods and from this host: for ledgers of whole clusters.

What enters is a Place; what leaves is the URL of an empty database. The server refuses to run as
root, so it runs as an unprivileged user, in a folder that such a user can reach.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from testbed import components
from testbed.errors import TestbedError
from testbed.place import Place

NAME = "postgresql"
PORT = 5432
_DATABASE = "piecework"


def url(place: Place) -> str:
    """The database, for SQLAlchemy and psycopg."""
    return f"postgresql://{_DATABASE}@{place.hub}:{PORT}/{_DATABASE}"


def start(place: Place) -> str:
    """Starts PostgreSQL with an empty database; returns its URL. Does nothing where it runs."""
    programs = _programs()
    data = place.open_folder / "postgresql"
    if not data.exists():
        _initialize(programs, data, place)
    components.start(
        place,
        NAME,
        [*_unprivileged(), str(programs / "postgres"), "-D", str(data), f"-cport={PORT}",
         f"-clisten_addresses={place.hub}", f"-cunix_socket_directories={data}", "-cfsync=off"],
    )  # fmt: skip
    components.wait_until(
        "PostgreSQL to take connections",
        lambda: _is_ready(programs, place),
        60,
        alive=lambda: components.running(place, NAME),
        log=place.logs / f"{NAME}.log",
    )
    return url(place)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise TestbedError("PostgreSQL is missing (Debian: apt install postgresql)")
    return Path(on_path).resolve().parent


def _user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _unprivileged() -> list[str]:
    user = _user()
    group = str(pwd.getpwnam(user).pw_gid)
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]


def _initialize(programs: Path, data: Path, place: Place) -> None:
    data.mkdir(parents=True)
    place.open_folder.chmod(0o755)
    entry = pwd.getpwnam(_user())
    os.chown(data, entry.pw_uid, entry.pw_gid)
    who = {"cwd": data, "capture_output": True, "text": True}
    commands = [
        [str(programs / "initdb"), "-D", str(data), "-U", _DATABASE, "--auth=trust", "--no-sync",
         "--encoding=UTF8", "--locale=C"],
        # A database cannot be made while no server runs, but by the server itself.
        [str(programs / "postgres"), "--single", "-D", str(data), "postgres"],
    ]  # fmt: skip
    for command in commands:
        text = f"CREATE DATABASE {_DATABASE};\n" if "--single" in command else None
        done = subprocess.run([*_unprivileged(), *command], input=text, check=False, **who)  # type: ignore[call-overload]  # the same for both
        if done.returncode:
            shutil.rmtree(data)
            raise TestbedError(f"{command[0]} failed: {done.stderr}")
    with (data / "pg_hba.conf").open("a") as stream:
        stream.write(f"host all all {place.network}.0.0/16 trust\n")


def _is_ready(programs: Path, place: Place) -> bool:
    command = [str(programs / "pg_isready"), "-q", f"--host={place.hub}", f"--port={PORT}"]
    return subprocess.run(command, check=False).returncode == 0
