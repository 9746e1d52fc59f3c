"""The services of a Spark job in mode `standalone`: a master and a worker on this machine.

    config: {"properties": {...}, "properties_file": "...", "cores": 8, "memory_mib": 20000,
             "daemon_mib": 256, "daemon_options": "...", "spark_home": "...", "folder": "...",
             "logs": "..."}

They listen on the loopback interface only. The worker starts the executors. All of them are killed
by the kernel if this process dies, however it dies; at the end they are ended in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from piecework.entrypoint.session import say
from piecework.entrypoint.spark import properties_text

HOST = "127.0.0.1"
#: How long a JVM may take until it listens, on a machine that is busy.
BOOT_SECONDS = 90.0
END_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


class Daemons:
    """A running master and worker."""

    def __init__(self, config: Mapping[str, Any], address: str) -> None:
        self.config = config
        self.address = address
        self.running: dict[str, subprocess.Popen[bytes]] = {}

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
        return None

    def program_ended(self) -> None:
        """Keeps what the executors printed; the driver's log is the job's."""
        applications = Path(self.config["folder"], "worker")
        logs = Path(self.config["logs"])
        for file in sorted(applications.glob("app-*/*/std*")):
            if file.stat().st_size:
                logs.mkdir(parents=True, exist_ok=True)
                target = logs / f"{file.parent.parent.name}-{file.parent.name}-{file.name}.log"
                with contextlib.suppress(OSError):
                    shutil.copyfile(file, target)

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
    port = _free_port()
    daemons = Daemons(config, f"spark://{HOST}:{port}")
    try:
        master = ["--host", HOST, "--port", str(port), "--webui-port", "0"]
        daemons.running["master"] = _start(config, "master", master)
        _wait_until_listening(daemons, port)
        worker = ["--host", HOST, "--webui-port", "0", "--cores", str(config["cores"])]
        worker += ["--memory", f"{config['memory_mib']}m"]
        worker += ["--work-dir", str(Path(config["folder"], "worker")), daemons.address]
        daemons.running["worker"] = _start(config, "worker", worker)
        settings = {**config["properties"], "spark.master": daemons.address}
        Path(config["properties_file"]).write_text(properties_text(settings), encoding="utf-8")
        yield daemons
    finally:
        daemons.end()


def _start(config: Mapping[str, Any], name: str, args: list[str]) -> subprocess.Popen[bytes]:
    """One daemon. Its own properties turn off what listens beyond what a job needs."""
    folder = Path(config["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.properties"
    own = {
        "spark.master.rest.enabled": "false",  # on by default, and takes any job
        "spark.port.maxRetries": "0",  # another port than the one asked for would not be found
        "spark.worker.cleanup.enabled": "false",
    }
    file.write_text(properties_text(own), encoding="utf-8")
    env = {
        **os.environ,
        "SPARK_DAEMON_MEMORY": f"{config['daemon_mib']}m",
        "SPARK_DAEMON_JAVA_OPTS": config["daemon_options"],
    }
    spark_class = str(Path(config["spark_home"], "bin", "spark-class"))
    java_class = f"org.apache.spark.deploy.{name}.{name.title()}"
    with _log(config, name).open("wb") as log:
        return subprocess.Popen(
            [spark_class, java_class, "--properties-file", str(file), *args],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
        )


def _log(config: Mapping[str, Any], name: str) -> Path:
    """What a daemon prints, which says nothing about the job unless the daemon fails."""
    return Path(config["folder"], f"{name}.log")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(daemons: Daemons, port: int) -> None:
    until = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < until:
        failure = daemons.failure()
        if failure:
            say(failure)
            raise SystemExit(1)
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.05)
    say(f"Spark's master did not answer on port {port} within {BOOT_SECONDS:.0f} seconds")
    raise SystemExit(1)
