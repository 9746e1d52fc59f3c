"""The three programs that no registry has: cluster-autoscaler, spark-operator and Kueue.

What enters is a program's name; what leaves is an executable, or an error that says where it was
looked for. The folders of `$PIECEWORK_TESTBED_PROGRAMS`, PATH, and `shared/bin` beside the
repository are looked at, in this order. A file may carry its version, and be packed by xz.
"""

from __future__ import annotations

import lzma
import os
import shutil
from pathlib import Path

from testbed.errors import MissingProgramError
from testbed.place import lock
from testbed.programs import cache_folder

NAMES = ("cluster-autoscaler", "spark-operator", "kueue")
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "bin"


def folders() -> list[Path]:
    """Where such programs are looked for, besides PATH."""
    named = os.environ.get("PIECEWORK_TESTBED_PROGRAMS", "")
    return [*(Path(part) for part in named.split(os.pathsep) if part), _BESIDE]


def find(name: str) -> Path:
    """The executable, unpacked into the cache where needed; raises MissingProgramError."""
    for folder in folders()[:-1]:
        found = _in_folder(folder, name)
        if found:
            return found
    on_path = shutil.which(name)
    if on_path:
        return Path(on_path)
    found = _in_folder(_BESIDE, name)
    if found:
        return found
    looked = ", ".join(["$PIECEWORK_TESTBED_PROGRAMS", "PATH", str(_BESIDE)])
    raise MissingProgramError(
        f"{name} is not here (looked at {looked}); take it from its project's release and name "
        f"its folder in PIECEWORK_TESTBED_PROGRAMS"
    )


def find_chart(name: str) -> Path:
    """The Helm chart that lies beside a program; raises MissingProgramError."""
    for folder in folders():
        for path in sorted(folder.glob(f"{name}-*.tgz")):
            return path
    raise MissingProgramError(f"the Helm chart of {name} is not in {folders()}")


def _in_folder(folder: Path, name: str) -> Path | None:
    for path in [folder / name, *sorted(folder.glob(f"{name}-[0-9]*"))]:
        if path.is_file() and os.access(path, os.X_OK) and path.suffix not in (".xz", ".tgz"):
            return path
        if path.is_file() and path.suffix == ".xz":
            return _unpack(path)
    return None


def _unpack(packed: Path) -> Path:
    stat = packed.stat()
    target = cache_folder() / "found" / f"{packed.stem}-{stat.st_size}-{int(stat.st_mtime)}"
    with lock(target.with_name(target.name + ".lock")):
        if not target.exists():
            unfinished = target.with_name(target.name + ".unfinished")
            with lzma.open(packed) as source, unfinished.open("wb") as out:
                shutil.copyfileobj(source, out)
            unfinished.chmod(0o755)
            unfinished.rename(target)
    return target
