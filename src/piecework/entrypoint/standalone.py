"""The services of a Spark job in mode `standalone`: a master and a worker on this machine.

    config: {"engine": "spark" | "h2o", "properties": {...}, "properties_file": "...", "cores": 8,
             "memory_mib": 20000, "daemon_mib": 256, "daemon_options": "...", "spark_home": "...",
             "folder": "...", "logs": "...", "out_of_memory": "...", "gang": {...} | null}

They listen on the loopback interface only, or in a gang, each of whose other machines has a worker,
on the address of the machine; then they know each other by a secret that the head hands out. The
worker starts the executors. All of them are killed by the kernel if this process dies, however it
dies; at the end they are ended in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from piecework.entrypoint.gang import Gang, GangError, Head, own_address
from piecework.entrypoint.session import say
from piecework.entrypoint.spark import properties_text

HOST = "127.0.0.1"
#: How long a JVM may take until it listens, on a machine that is busy.
BOOT_SECONDS = 90.0
END_SECONDS = 10.0
#: What the master says of an executor that ended while its application runs.
_REMOVED = re.compile(r"Removing executor \S+/(\d+) because it is (\w+)")
_UNREGISTERED = "Received unregister request from application"
#: How long an application may take from the first to the second.
PARTING_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


class Daemons:
    """A running master and worker."""

    def __init__(self, config: Mapping[str, Any], host: str, head: Head | None) -> None:
        self.config = config
        self.host = host
        self.port = _free_port(host)
        self.head = head
        self.secret = secrets.token_hex(16) if head is not None else None
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._removed_at: float | None = None

    @property
    def address(self) -> str:
        """The master's."""
        return f"spark://{self.host}:{self.port}"

    @property
    def env(self) -> Mapping[str, str | None]:
        """The program finds the master in the properties file that its environment names."""
        return {}

    def failure(self) -> str | None:
        """A job whose master or worker is gone would wait for executors for ever."""
        for name, process in self.running.items():
            if process.poll() is not None:
                log = _log(self.config, name).read_text(encoding="utf-8", errors="replace")
                last = "\n".join(log.splitlines()[-10:])
                return f"Spark's {name} ended by itself, exit code {process.returncode}:\n{last}"
        return self._lost_executor() if self.config["engine"] == "h2o" else None

    def _lost_executor(self) -> str | None:
        """H2O's data is in its executors' memory: without one of them it waits for ever."""
        if self.head is not None and self.head.lost:
            return (
                f"H2O cannot go on without machine {self.head.lost[0]} of the gang, which is lost"
            )
        log = _log(self.config, "master").read_text(encoding="utf-8", errors="replace")
        removed = _REMOVED.search(log)
        if removed is None or _UNREGISTERED in log:
            return None
        self._removed_at = self._removed_at or time.monotonic()
        if time.monotonic() - self._removed_at < PARTING_SECONDS:
            return None  # a program that ends has its executors end a moment before it says so
        number, state = removed.groups()
        return f"H2O cannot go on without its executor {number}, which has {state.lower()}"

    def program_ended(self) -> None:
        """Keeps what executors printed here; the driver's log is the job's. Ends the gang."""
        applications = Path(self.config["folder"], "worker")
        logs = Path(self.config["logs"])
        for file in sorted(applications.glob("app-*/*/std*")):
            if file.stat().st_size:
                logs.mkdir(parents=True, exist_ok=True)
                target = logs / f"{file.parent.parent.name}-{file.parent.name}-{file.name}.log"
                with contextlib.suppress(OSError):
                    shutil.copyfile(file, target)
        if self.head is not None and any(w.get("out_of_memory") for w in self.head.finish()):
            with contextlib.suppress(OSError):
                Path(self.config["out_of_memory"]).touch()

    def end(self) -> None:
        """The worker first, which ends its executors, then the master."""
        for name in ("worker", "master"):
            process = self.running.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def services(config: Mapping[str, Any]) -> Iterator[Daemons]:
    """Starts master and worker, and tells the program's properties file where they are."""
    gang = None if config["gang"] is None else Gang(**config["gang"])
    with ExitStack() as stack:
        try:
            head = None if gang is None else stack.enter_context(Head.listen(gang))
            daemons = Daemons(config, HOST if gang is None else own_address(gang), head)
            stack.callback(daemons.end)
            master = ["--host", daemons.host, "--port", str(daemons.port), "--webui-port", "0"]
            daemons.running["master"] = _start(daemons, "master", master)
            _wait_until_listening(daemons)
            worker = _worker_arguments(config, daemons.host, daemons.address)
            daemons.running["worker"] = _start(daemons, "worker", worker)
            if head is not None:
                head.gather({"master": daemons.address, "secret": daemons.secret})
        except (GangError, OSError) as error:
            say(str(error))
            raise SystemExit(1) from error
        settings = {
            **config["properties"],
            **_authentication(daemons.secret),
            "spark.master": daemons.address,
        }
        Path(config["properties_file"]).write_text(properties_text(settings), encoding="utf-8")
        yield daemons


def worker(
    config: Mapping[str, Any], told: Mapping[str, Any]
) -> tuple[list[str], Mapping[str, str]]:
    """The command line and the environment of another machine's worker; see `gang.worker_file`."""
    address = own_address(Gang(**config["gang"]))
    arguments = _worker_arguments(config, address, told["master"])
    return _command(config, "worker", arguments, told["secret"])


def _worker_arguments(config: Mapping[str, Any], host: str, master: str) -> list[str]:
    arguments = ["--host", host, "--webui-port", "0", "--cores", str(config["cores"])]
    arguments += ["--memory", f"{config['memory_mib']}m"]
    return [*arguments, "--work-dir", str(Path(config["folder"], "worker")), master]


def _authentication(secret: str | None) -> dict[str, str]:
    """By which the parts of one application know each other, where others could reach them."""
    if secret is None:
        return {}
    return {"spark.authenticate": "true", "spark.authenticate.secret": secret}


def _start(daemons: Daemons, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """One daemon, which ends with this process."""
    argv, env = _command(daemons.config, name, arguments, daemons.secret)
    with _log(daemons.config, name).open("wb") as log:
        return subprocess.Popen(
            argv,
            env={**os.environ, **env},
            cwd=daemons.config["folder"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread that forks
        )


def _command(
    config: Mapping[str, Any], name: str, arguments: list[str], secret: str | None
) -> tuple[list[str], dict[str, str]]:
    """A daemon's command line, and what is new in its environment.

    Its own properties turn off what listens beyond what a job needs.
    """
    folder = Path(config["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.properties"
    own = {
        "spark.master.rest.enabled": "false",  # on by default, and takes any job
        "spark.port.maxRetries": "0",  # another port than the one asked for would not be found
        "spark.worker.cleanup.enabled": "false",
        **_authentication(secret),
    }
    file.write_text(properties_text(own), encoding="utf-8")
    env = {
        "SPARK_DAEMON_MEMORY": f"{config['daemon_mib']}m",
        "SPARK_DAEMON_JAVA_OPTS": config["daemon_options"],
    }
    spark_class = str(Path(config["spark_home"], "bin", "spark-class"))
    java_class = f"org.apache.spark.deploy.{name}.{name.title()}"
    return [spark_class, java_class, "--properties-file", str(file), *arguments], env


def _log(config: Mapping[str, Any], name: str) -> Path:
    """What a daemon prints, which says nothing about the job unless the daemon fails."""
    return Path(config["folder"], f"{name}.log")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(daemons: Daemons) -> None:
    where = (daemons.host, daemons.port)
    until = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < until:
        failure = daemons.failure()
        if failure:
            say(failure)
            raise SystemExit(1)
        with contextlib.suppress(OSError), socket.create_connection(where, timeout=1):
            return
        time.sleep(0.05)
    say(f"Spark's master did not answer on port {where[1]} within {BOOT_SECONDS:.0f} seconds")
    raise SystemExit(1)
