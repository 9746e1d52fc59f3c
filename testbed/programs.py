"""The programs a cluster is made of: built from Go modules, kept in a cache, or found.

What enters are the pins of programs.toml; what leaves are paths of executables. A group is built
into a folder beside its final place and renamed when it is complete, under a lock of its own: an
interrupted build leaves nothing that looks finished, and of two builds at once the second waits
and finds the first one's work. Builds run at the lowest priority, so that they disturb nobody.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed.errors import TestbedError

#: Is told what happens, line by line.
Progress = Callable[[str], None]

_PINS = Path(__file__).parent / "programs.toml"
_PROGRESS_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Group:
    """Programs that are built together, from one module or one folder of this repository."""

    name: str
    version: str
    programs: Mapping[str, str]
    module: str = ""
    source: str = ""
    staging: bool = False
    keep: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Changes with everything that goes into the build, so that a new pin is a new folder."""
        digest = hashlib.sha256(repr(self).encode())
        if self.source:
            for path in sorted((_PINS.parent / self.source).rglob("*")):
                digest.update(path.read_bytes() if path.is_file() else b"")
        return digest.hexdigest()[:10]


def cache_folder() -> Path:
    """`$PIECEWORK_TESTBED_CACHE`, else piecework/testbed in the user's cache folder."""
    named = os.environ.get("PIECEWORK_TESTBED_CACHE")
    if named:
        return Path(named).absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "piecework" / "testbed"


def groups(pins: Path = _PINS) -> dict[str, Group]:
    """The pinned groups, by name."""
    with pins.open("rb") as stream:
        tables = tomllib.load(stream)
    return {
        name: Group(name=name, **{**table, "keep": tuple(table.get("keep", ()))})
        for name, table in tables.items()
    }


def folder_of(group: Group, cache: Path | None = None) -> Path:
    """Where a group lies once it is built."""
    root = (cache or cache_folder()) / "programs"
    return root / f"{group.name}-{group.version}-{group.fingerprint()}"


def is_built(group: Group, cache: Path | None = None) -> bool:
    """True where the group's folder is there: it appears only when it is complete."""
    return folder_of(group, cache).is_dir()


def find(program: str, cache: Path | None = None) -> Path:
    """The executable of a pinned program; raises TestbedError where it was not built yet."""
    for group in groups().values():
        if program in group.programs:
            if not is_built(group, cache):
                raise TestbedError(f"{program} is not built yet; run: python -m testbed build")
            return folder_of(group, cache) / program
    raise TestbedError(f"no group of {_PINS.name} has a program named {program!r}")


def build_all(
    progress: Progress, names: Iterable[str] | None = None, cache: Path | None = None
) -> None:
    """Builds what is missing; does nothing, in no time, where nothing is."""
    wanted = [group for name, group in groups().items() if names is None or name in set(names)]
    missing = [group for group in wanted if not is_built(group, cache)]
    for number, group in enumerate(missing, 1):
        build(group, progress, cache=cache, count=f"{number}/{len(missing)}")


def build(
    group: Group, progress: Progress, *, cache: Path | None = None, count: str = "1/1"
) -> Path:
    """Builds one group, or waits for whoever builds it now; returns its folder."""
    final = folder_of(group, cache)
    final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(final.with_name(final.name + ".lock"), progress, group.name):
        if final.is_dir():
            return final
        started = time.monotonic()
        progress(f"[{count}] building {group.name} {group.version}: {', '.join(group.programs)}")
        unfinished = final.with_name(final.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        work = unfinished / "module"
        work.mkdir()
        _write_module(group, work)
        for program, package in group.programs.items():
            _go_build(group, work, package, unfinished / program, progress)
        _keep_folders(group, work, unfinished)
        shutil.rmtree(work)
        unfinished.rename(final)
        progress(f"[{count}] built {group.name} in {time.monotonic() - started:.0f} s")
    return final


@contextmanager
def _locked(path: Path, progress: Progress, name: str) -> Iterator[None]:
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another build of {name}")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _write_module(group: Group, work: Path) -> None:
    lines = ["module testbed", "", "go 1.26.0", ""]
    if group.source:
        for path in (_PINS.parent / group.source).glob("*.go"):
            shutil.copy(path, work)
    if group.module:
        lines.append(f"require {group.module} v{group.version}")
    (work / "go.mod").write_text("\n".join(lines) + "\n")
    if group.staging:
        # A replacement counts only in the main module: repeat those of the staging folders.
        described = _go(group, work, "mod", "download", "-json", f"{group.module}@v{group.version}")
        staged = re.findall(
            r"^\t(\S+) => \./staging", Path(json.loads(described)["GoMod"]).read_text(), re.M
        )
        staging_version = "v0." + group.version.split(".", 1)[1]
        lines.append("godebug default=go1.26")
        lines.append("replace (")
        lines += [f"\t{module} => {module} {staging_version}" for module in staged]
        lines.append(")")
        (work / "go.mod").write_text("\n".join(lines) + "\n")


def _keep_folders(group: Group, work: Path, target: Path) -> None:
    if group.keep:
        described = _go(group, work, "mod", "download", "-json", f"{group.module}@v{group.version}")
        root = Path(json.loads(described)["Dir"])
        for name in group.keep:
            shutil.copytree(root / name, target / name)
        # The module cache is read-only, and so would be the copies.
        for path in [target, *target.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)


def _go_environment() -> dict[str, str]:
    flags = os.environ.get("GOFLAGS", "")
    return {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": f"{flags} -mod=mod -buildvcs=false -trimpath".strip(),
    }


def _go(group: Group, work: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["go", *arguments],
            cwd=work, env=_go_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise TestbedError("go is not installed; Go 1.26 or later builds the programs") from error
    if done.returncode:
        raise TestbedError(f"go {' '.join(arguments)} for {group.name} failed:\n{done.stderr}")
    return done.stdout


def _go_build(group: Group, work: Path, package: str, out: Path, progress: Progress) -> None:
    variables = [
        f"-X {name}={value.format(version=group.version)}"
        for name, value in group.variables.items()
    ]
    command = [
        "nice", "-n", "19", "go", "build", "-v", "-ldflags", " ".join(["-s", "-w", *variables]),
        "-o", str(out), package,
    ]  # fmt: skip
    if shutil.which("go") is None:
        raise TestbedError("go is not installed; Go 1.26 or later builds the programs")
    tail: list[str] = []
    compiled = downloaded = 0
    told = time.monotonic()
    with subprocess.Popen(
        command, cwd=work, env=_go_environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            for line in process.stderr:
                tail = [*tail[-29:], line]
                downloaded += line.startswith("go: downloading")
                compiled += not line.startswith("go: ")
                if time.monotonic() - told > _PROGRESS_SECONDS:
                    told = time.monotonic()
                    progress(
                        f"      {out.name}: {downloaded} modules downloaded, "
                        f"{compiled} packages compiled"
                    )
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise TestbedError(f"building {out.name} failed:\n{''.join(tail)}")


def say(line: str) -> None:
    """The usual Progress: to stderr, at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
