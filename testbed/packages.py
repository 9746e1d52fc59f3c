"""The Python packages of an image: installed on this host, pinned by the repository's lock file.

What enters is a folder with a Dockerfile and a requirements.txt; what leaves is a folder of
packages in the cache, for the Dockerfile to copy. Where the image needs other versions, the folder
has a requirements.lock of its own, and gets exactly what that lists. A build has no way to a
package index of its own: whichever one this host uses, with its certificates, is this host's
business.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from testbed.errors import TestbedError
from testbed.place import lock
from testbed.programs import Progress, cache_folder

REQUIREMENTS = "requirements.txt"
_REPOSITORY = Path(__file__).resolve().parents[1]
_LOCK_NAME = "requirements.lock"
_LOCK = _REPOSITORY / _LOCK_NAME
#: How a requirements.txt below `images/` asks for this repository's own package.
_OURSELVES = "../.."
#: The Python of the image `base`.
_PYTHON = "3.11"
#: What no job imports, and would be pulled onto every machine.
_NEEDLESS = ("**/tests", "bin", "pyarrow/include", "**/*.pyx", "**/*.pxd", "**/*.pxi", "**/*.a")


def fingerprint(folder: Path) -> str:
    """Changes with whatever goes into the packages of this folder's image."""
    asked = (folder / REQUIREMENTS).read_text()
    digest = hashlib.sha256(asked.encode() + lock_of(folder).read_bytes())
    digest.update(repr((_PYTHON, _NEEDLESS)).encode())
    if _OURSELVES in asked:
        for path in [_REPOSITORY / "pyproject.toml", *sorted((_REPOSITORY / "src").rglob("*.py"))]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def lock_of(folder: Path) -> Path:
    """The file that pins the packages of this folder's image."""
    own = folder / _LOCK_NAME
    return own if own.exists() else _LOCK


def install(folder: Path, progress: Progress) -> Path:
    """The packages that the folder's requirements.txt asks for; installed at the first call."""
    target = cache_folder() / "packages" / f"{folder.name}-{fingerprint(folder)}"
    with lock(target.with_name(target.name + ".lock")):
        if not target.is_dir():
            progress(f"installing the packages of {folder}")
            unfinished = target.with_name(target.name + ".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            _uv_install(folder, unfinished)
            for pattern in _NEEDLESS:
                for path in list(unfinished.glob(pattern)):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            unfinished.rename(target)
    return target


def _uv_install(folder: Path, target: Path) -> None:
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("uv", path=beside)
    if program is None:
        raise TestbedError("uv installs an image's packages, and is not here: run make setup")
    pins = lock_of(folder)
    if pins == _LOCK:
        asked = [f"--constraint={pins}", f"--requirement={REQUIREMENTS}"]
    else:
        asked = ["--no-deps", f"--requirement={pins.name}"]
    command = [
        "nice", "-n", "10", program, "pip", "install", "--quiet", f"--python={sys.executable}",
        f"--python-version={_PYTHON}", f"--target={target}", *asked,
        # What it built of this repository before may be of another day.
        "--refresh-package=piecework",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TestbedError(f"installing the packages of {folder} failed:\n{done.stderr}")
