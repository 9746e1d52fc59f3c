"""kubectl, for what it does best: exec, port-forward, and what people type.

What enters is a kubeconfig and arguments; what leaves is what kubectl says.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import programs
from testbed.errors import TestbedError


def program() -> str:
    """The built kubectl, else the one on PATH."""
    try:
        return str(programs.find("kubectl"))
    except TestbedError:
        found = shutil.which("kubectl")
        if found is None:
            raise
        return found


def run(kubeconfig: Path, *arguments: str, timeout_seconds: float = 60) -> str:
    """Runs kubectl; raises TestbedError with what it said."""
    command = [program(), f"--kubeconfig={kubeconfig}", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TestbedError(
            f"kubectl {' '.join(arguments)} took over {timeout_seconds} s"
        ) from error
    if done.returncode:
        raise TestbedError(f"kubectl {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout


def execute(kubeconfig: Path, namespace: str, pod: str, *command: str) -> str:
    """Runs a command in a pod's container; returns what it wrote."""
    return run(kubeconfig, "exec", f"--namespace={namespace}", pod, "--", *command)


@contextmanager
def forwarded(kubeconfig: Path, namespace: str, pod: str, port: int) -> Iterator[int]:
    """Forwards a port of a pod; gives the port on this host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        local: int = probe.getsockname()[1]
    command = [
        program(), f"--kubeconfig={kubeconfig}", "port-forward", f"--namespace={namespace}",
        "--address=127.0.0.1", f"pod/{pod}", f"{local}:{port}",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while not _listens(local):
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    said = process.stderr.read() if process.stderr else ""
                    raise TestbedError(f"port-forward to {pod}:{port} failed: {said}")
                time.sleep(0.05)
            yield local
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
