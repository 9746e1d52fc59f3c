"""Keeps in the store what a program leaves, and what would be gone with its pod.

    STORE/results/ATTEMPT.json         a result that is too long for the pod's message
    STORE/artifacts/ATTEMPT/...        the files of $PIECEWORK_ARTIFACTS
    STORE/artifacts/ATTEMPT/POD/...    those of an attempt's other pods, by their index or name

Folders and file URLs need nothing; others need the package fsspec, with what it needs for them, in
the image. What cannot be kept is told, with why.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TRIES, _PAUSE_SECONDS = 3, 1.0
#: What is left after this long is lost: the machine is paid for meanwhile.
LONGEST_SECONDS = 300.0
#: The same where somebody asked for the pod's end, and kills it soon.
ENDING_SECONDS = 3.0
_LONGEST_WHY = 300


class CannotKeep(Exception):  # noqa: N818 (it is said like that)
    """Something could not be put into the store; the message says why."""


@dataclass
class Kept:
    """What of the artifacts is in the store; `lost` says what is not, and why."""

    url: str
    files: int = 0
    bytes: int = 0
    lost: str | None = None


def keep_result(store: str, attempt: str, data: bytes) -> str:
    """Puts a result there; returns its URL. Raises CannotKeep."""
    url = f"{store.rstrip('/')}/results/{attempt}.json"
    last: Exception | None = None
    for number in range(_TRIES):
        if number:
            time.sleep(_PAUSE_SECONDS * 2 ** (number - 1))
        try:
            _Place(url).write(data)
        except (ValueError, ImportError) as error:  # fsspec knows no such store, here or at all
            last = error
            break
        except Exception as error:  # each store has errors of its own
            last = error
        else:
            return url
    assert last is not None
    raise CannotKeep(f"it cannot be written to {url}: {_said(last)}") from last


def keep_artifacts(
    store: str, environ: Mapping[str, str], folder: Path, seconds: float
) -> Kept | None:
    """Puts the folder's files there; None where it has none. Raises nothing."""
    files = sorted(_files(folder))
    if not files:
        return None
    parts = (store.rstrip("/"), "artifacts", environ["PIECEWORK_ATTEMPT"], _pod(environ))
    kept = Kept("/".join(filter(None, parts)))
    wrong: list[str] = []

    def put() -> None:
        try:
            root = _Place(kept.url)
            for path in files:
                size = path.stat().st_size
                root.put(path, path.relative_to(folder).as_posix())
                kept.files += 1
                kept.bytes += size
        except Exception as error:  # each store has errors of its own
            wrong.append(_said(error))

    # A thread, because no store's library can be told how long it may take.
    thread = threading.Thread(target=put, daemon=True, name="artifacts")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        wrong.append(f"it took longer than {seconds:.0f} s")
    if wrong:
        left = len(files) - kept.files
        kept.lost = f"{left} of its {len(files)} artifacts could not be kept at {kept.url}: "
        kept.lost += wrong[0][:_LONGEST_WHY]
    return kept


class _Place:
    """A folder or file of the store, by its URL."""

    def __init__(self, url: str) -> None:
        scheme, separator, rest = url.partition("://")
        self.fs: Any = None
        if not separator or scheme == "file":
            self.path = "/" + rest.lstrip("/") if separator else url
            return
        import fsspec

        self.fs, self.path = fsspec.core.url_to_fs(url)

    def write(self, data: bytes) -> None:
        """The file, whole or not at all."""
        if self.fs is not None:
            self._make_folder(self.path)
            self.fs.pipe_file(self.path, data)
            return
        target = Path(self.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        draft.write_bytes(data)
        draft.replace(target)

    def put(self, source: Path, name: str) -> None:
        """A file into the folder."""
        target = f"{self.path}/{name}"
        if self.fs is not None:
            self._make_folder(target)
            self.fs.put_file(str(source), target)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

    def _make_folder(self, path: str) -> None:
        """Object stores have none, and would make a bucket instead."""
        protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else self.fs.protocol
        if not _OBJECT_STORES & set(protocols):
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)


_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "r2"})


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _pod(environ: Mapping[str, str]) -> str:
    """Nothing for an attempt's first pod; pods that an engine makes have no index."""
    index = environ.get("PIECEWORK_INDEX")
    return socket.gethostname() if index is None else "" if index == "0" else index


def _said(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
