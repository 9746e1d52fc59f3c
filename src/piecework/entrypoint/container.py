"""Starts a container with podman or docker; the image as it is.

    program: {"image": "registry.example.com/score:3", "command": ["python", "score.py"] | None}

Data, artifacts, code and the result's file are mounted, and the PIECEWORK_ variables name where.
A container is no descendant of the command that starts it: conmon or a daemon is its parent. So
SIGTERM goes to the command, which passes it on; once the command is gone, a forced removal by name
ends what may be left. The session does that, and `afterwards` does it again where the session was
killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from piecework.entrypoint.data import variables_of
from piecework.entrypoint.start import (
    CannotStart,
    Machine,
    Start,
    afterwards,
    own_folder,
    program_args,
)

#: Inside the container.
CODE, DATA, ARTIFACTS, RESULT = (
    "/piecework/code",
    "/piecework/data",
    "/piecework/artifacts",
    "/piecework/result",
)
_ASKED = {
    "podman": ("info", "--format", "{{.Version.Version}}"),
    "docker": ("version", "--format", "{{.Server.Version}}"),
}


@dataclass(frozen=True)
class Runtime:
    """The program that starts containers here: its name and its path."""

    name: str
    path: str


def prepare(launch: Mapping[str, Any], environ: Mapping[str, str], work: Path) -> Start:
    """The runtime's command line. Raises CannotStart where there is no runtime that answers."""
    return build(launch, environ, work, find_runtime(environ), sorted(os.sched_getaffinity(0)))


def find_runtime(environ: Mapping[str, str]) -> Runtime:
    """podman, else docker; the first that answers. Raises CannotStart where none does."""
    silent = []
    for name, question in _ASKED.items():
        path = shutil.which(name, path=environ.get("PATH", ""))
        if path is None:
            continue
        try:
            done = subprocess.run(
                [path, *question],
                env=dict(environ),
                capture_output=True,
                timeout=30,
                check=False,
                text=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            silent.append(f"{name}: {error}")
            continue
        if done.returncode == 0:
            return Runtime(name, path)
        silent.append(f"{name}: {' '.join(done.stderr.split())[-300:] or 'no answer'}")
    if silent:
        raise CannotStart(
            f"what starts containers on this computer does not answer ({'; '.join(silent)}). Start "
            "it, or run this job on a pool with Kubernetes"
        )
    raise CannotStart(
        "no podman or docker on this computer; install one, or run this job on a pool with "
        "Kubernetes"
    )


def build(
    launch: Mapping[str, Any],
    environ: Mapping[str, str],
    work: Path,
    runtime: Runtime,
    cores: list[int],
) -> Start:
    """The command line, exactly. Pure, so that it can be looked at without a runtime."""
    machine, program = Machine.from_environ(environ), launch["program"]
    name = container_name(environ.get("PIECEWORK_ATTEMPT") or work.parent.name)
    inside, mounts = _inside(launch, environ)
    result = environ.get("PIECEWORK_RESULT")
    own = own_folder(work)
    if result:
        mounts.append((str(own / "result"), RESULT, "rw"))
        inside["PIECEWORK_RESULT"] = f"{RESULT}/result.json"
    argv = [runtime.path, "run", "--init", "--name", name]
    argv += ["--cpuset-cpus", ",".join(str(core) for core in cores)]
    argv += ["--memory", str(machine.memory_bytes), "--memory-swap", str(machine.memory_bytes)]
    argv += ["--label", f"piecework.dev/attempt={environ.get('PIECEWORK_ATTEMPT', '')}"]
    if machine.gpus:
        argv += (
            ["--device", "nvidia.com/gpu=all"] if runtime.name == "podman" else ["--gpus", "all"]
        )
    for source, target, mode in mounts:
        argv += ["--volume", f"{source}:{target}:{mode}"]
    for variable, text in inside.items():
        argv += ["--env", f"{variable}={text}" if _is_runtimes(variable, environ) else variable]
    command = [str(part) for part in program.get("command") or ()]
    if command:
        argv += ["--entrypoint", command[0]]
    argv += [program["image"], *command[1:], *program_args(launch)]
    config = {
        "argv": argv,
        "runtime": runtime.path,
        "name": name,
        "results": [str(own / "result" / "result.json"), result] if result else None,
        "out_of_memory": str(own / "out-of-memory"),
    }
    session = Path(__file__).with_name("session.py")
    private = {name: text for name, text in inside.items() if not _is_runtimes(name, environ)}
    return Start(
        argv=(sys.executable, "-P", str(session), "container", str(own / "session.json")),
        env={**environ, **private},
        files={
            str(own / "session.json"): json.dumps(config),
            **afterwards(work, (runtime.path, "rm", "--force", "--volumes", name)),
        },
        folders=(str(own / "result"),),
        out_of_memory=str(own / "out-of-memory"),
    )


def _is_runtimes(variable: str, environ: Mapping[str, str]) -> bool:
    """Whether a variable would change what podman or docker itself does.

    Those stand on its command line, which everybody on this computer can read. The others do not:
    their values may be secret, and the runtime takes them from its own environment.
    """
    families = ("LD_", "DOCKER_", "CONTAINER", "XDG_", "BUILDAH_", "STORAGE_", "REGISTRY_")
    return variable in environ or variable.startswith(families)


class Container:
    """The container beside whose command line the session waits."""

    env: Mapping[str, str | None] = MappingProxyType({})

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def failure(self) -> str | None:
        """The command line ends when the container does."""
        return None

    def program_ended(self) -> None:
        """Asks whether the container was out of memory, and keeps the result that it wrote."""
        asked = [self.config["runtime"], "inspect", "--format", "{{.State.OOMKilled}}"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [*asked, self.config["name"]], capture_output=True, timeout=30, check=False
            )
            if done.stdout.strip() == b"true":
                Path(self.config["out_of_memory"]).touch()
        if self.config["results"]:
            inside, outside = self.config["results"]
            with suppress(FileNotFoundError):
                shutil.copyfile(inside, outside)


@contextmanager
def services(config: Mapping[str, Any]) -> Iterator[Container]:
    """The session's part: nothing to start, but something to remove."""
    try:
        yield Container(config)
    finally:
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [config["runtime"], "rm", "--force", "--volumes", config["name"]],
                capture_output=True,
                timeout=60,
                check=False,
            )


def container_name(attempt: str) -> str:
    """A name that is this attempt's alone: runtimes allow letters, digits, `_`, `.` and `-`."""
    return "piecework-" + re.sub(r"[^A-Za-z0-9_.-]", "-", attempt)


def _inside(
    launch: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """The variables that the container gets, and what is mounted: from, to, how."""
    inside = {name: text for name, text in environ.items() if name.startswith("PIECEWORK_")}
    for name in ("PIECEWORK_HOME", "PIECEWORK_CONFIG", "PIECEWORK_PYTHON", "PIECEWORK_RESULT"):
        inside.pop(name, None)
    mounts = []
    for variable, target, mode in (
        ("PIECEWORK_DATA", DATA, "rw"),
        ("PIECEWORK_ARTIFACTS", ARTIFACTS, "rw"),
        ("PIECEWORK_CODE", CODE, "ro"),
    ):
        source = environ.get(variable) or (launch.get("code") if target == CODE else None)
        if source and "://" not in source:
            mounts.append((str(Path(source).absolute()), target, mode))
            inside[variable] = target
    inside.update(variables_of({**(launch.get("data") or {}), "kerberos": None}))
    inside.update(launch.get("env") or {})
    return inside, mounts
