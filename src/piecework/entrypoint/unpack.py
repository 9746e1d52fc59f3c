"""The beginning of the launcher's archive, where it is `__main__.py`: `python3 launcher.pyz`.

Unpacks the archive beside the program's working folder, because the parts that start programs are
programs themselves and need files to run from; then goes on with them (piecework.entrypoint.pod).
The working folder is the current one: the pod's own, empty volume.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path


def main() -> int:
    """Unpacks and starts the launcher; returns the pod's exit code."""
    folder = Path.cwd() / ".piecework" / "launcher"
    with zipfile.ZipFile(sys.path[0]) as archive:
        archive.extractall(folder)
    # Nothing of the program's may stand before what starts it.
    sys.path[0] = str(folder)
    from piecework.entrypoint.pod import main as start

    return start()


if __name__ == "__main__":
    sys.exit(main())
