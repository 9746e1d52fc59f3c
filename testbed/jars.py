"""Java libraries from Maven, as a pom.xml pins them: fetched by this host, once, into the cache.

What enters is a pom.xml, which says by the plug-in `dependency` what of its dependencies is wanted;
what leaves is a folder of jars.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from testbed.errors import TestbedError
from testbed.place import lock
from testbed.programs import Progress, cache_folder

#: In the folder of an image that needs some.
POM = "pom.xml"


def fetch(pom: Path, progress: Progress) -> Path:
    """The folder with the jars. Raises TestbedError where Maven is missing, or fails."""
    folder = folder_of(pom)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            if shutil.which("mvn") is None:
                raise TestbedError(
                    f"Maven fetches what {pom.parent.name}/{pom.name} lists, and is not here "
                    "(Debian: apt install maven)"
                )
            progress(f"fetching the jars of {pom}")
            unfinished = folder.with_name(folder.name + ".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            done = subprocess.run(
                ["mvn", "--quiet", "--batch-mode", f"--file={pom}",
                 "dependency:copy-dependencies", f"-DoutputDirectory={unfinished}"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                said = (done.stdout + done.stderr)[-2000:]
                raise TestbedError(f"fetching the jars of {pom} failed:\n{said}")
            unfinished.rename(folder)
    return folder


def folder_of(pom: Path) -> Path:
    """Where in the cache they are: a folder for each version of the file."""
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    return cache_folder() / "jars" / f"{pom.parent.name}-{digest}"
