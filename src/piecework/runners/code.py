"""How a job's code, and the launcher that starts it, reach a pod without an image being built.

Enters: the folder of a pipeline file. Leaves: a zip that is named by its hash, in the store that
the settings name or in a ConfigMap, and what the launcher is told so that it gets the same bytes
or says that it did not. The same folder gives the same zip, so it is sent once.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from piecework import clock
from piecework.clock import Clock
from piecework.config import Settings
from piecework.errors import ClusterError, ConfigError
from piecework.kube.client import CONFIG_MAP, POD, AlreadyThereError, Kube, Object
from piecework.plan import labels
from piecework.plan.manifest import CODE_FILE, CODE_FOLDER, LAUNCHER_FILE
from piecework.runners.store import Store

#: What kind of ConfigMap it is: code or launcher.
KIND = f"{labels.PREFIX}kind"
#: When a ConfigMap was last asked for: old ones are removed.
USED = f"{labels.PREFIX}used"

#: A ConfigMap holds 1 MiB, and etcd's own limit on requests is 1.5 MiB.
CONFIG_MAP_BYTES = 900 * 1024
#: Folders with more than this are not code; who gives them has put the file into the wrong place.
MOST_FILES, MOST_BYTES = 10_000, 256 * 2**20
#: Never code: what installers, interpreters and editors keep beside it. Nor is what is hidden.
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "venv"})
_SKIPPED_ENDINGS = (".pyc", ".pyo")
#: How long a ConfigMap that nobody asks for, and that no pod mounts, is kept.
KEPT = timedelta(days=7)
#: For how long what was put somewhere is taken to be there.
_TRUSTED_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder as one zip. `sha256` is that of its bytes, in hexadecimal digits."""

    sha256: str
    data: bytes


@dataclass(frozen=True, slots=True)
class CodeRef:
    """Where a bundle is: at a URL, or in a ConfigMap of the pods' namespace."""

    sha256: str
    url: str | None = None
    config_map: str | None = None

    def order(self) -> dict[str, str]:
        """What the launcher is told; see piecework.entrypoint.fetch."""
        place = {"path": f"{CODE_FOLDER}/{CODE_FILE}"} if self.url is None else {"url": self.url}
        return {**place, "sha256": self.sha256}


def bundle(folder: Path) -> Bundle:
    """The folder as a zip: equal folders give equal bytes, whatever the times of their files.

    Left out: what is hidden (its name begins with a dot), byte code, node_modules, __pycache__ and
    virtual environments. Raises ConfigError where it is no folder, or too much to be code.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"the code folder {folder} is not there; it is the one that the pipeline's file is in"
        )
    files = _measure(folder, list(_files(folder)))
    known = _bundles.get(folder)
    if known is not None and known[0] == files:
        return known[1]
    try:
        data = _zip(folder, files)
    except OSError as error:
        raise ConfigError(f"the code folder {folder} cannot be read: {error}") from error
    made = Bundle(hashlib.sha256(data).hexdigest(), data)
    _bundles[folder] = (files, made)
    return made


#: The last bundle of each folder, with what its files were then.
_bundles: dict[Path, tuple[tuple[tuple[str, int, int, int], ...], Bundle]] = {}


def _files(folder: Path) -> Iterator[Path]:
    """The files that are code, in order; links to folders are followed, once each."""
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(folders):
            path = Path(place, name)
            real = os.path.realpath(path)
            is_environment = (path / "pyvenv.cfg").exists()
            if name.startswith(".") or name in _SKIPPED_FOLDERS or is_environment or real in seen:
                continue
            seen.add(real)
            kept.append(name)
        folders[:] = kept
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and not name.endswith(_SKIPPED_ENDINGS) and path.is_file():
                yield path


def _measure(folder: Path, files: list[Path]) -> tuple[tuple[str, int, int, int], ...]:
    """Name, mode, size and time of change of each; raises ConfigError where they are too many."""
    found = []
    for path in files:
        stat = path.stat()
        name = path.relative_to(folder).as_posix()
        found.append((name, stat.st_mode, stat.st_size, stat.st_mtime_ns))
    total = sum(size for _, _, size, _ in found)
    if len(found) > MOST_FILES or total > MOST_BYTES:
        largest = sorted(found, key=lambda each: each[2], reverse=True)[:3]
        names = ", ".join(f"{name} ({size / 2**20:.1f} MiB)" for name, _, size, _ in largest)
        raise ConfigError(
            f"the code folder {folder} has {len(found):,} files with {total / 2**20:,.0f} MiB; "
            f"code has at most {MOST_FILES:,} files and {MOST_BYTES >> 20} MiB. The largest are "
            f"{names}. Put the pipeline's file into a folder with nothing but its code; data "
            "belongs where PIECEWORK_DATA is"
        )
    return tuple(found)


def _zip(folder: Path, files: tuple[tuple[str, int, int, int], ...]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, mode, _, _ in files:
            _add(archive, name, (folder / name).read_bytes(), executable=bool(mode & 0o100))
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes, *, executable: bool = False) -> None:
    """Adds a file without its time, owner and system, so that equal files make equal zips."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3
    info.external_attr = (0o100755 if executable else 0o100644) << 16
    archive.writestr(info, data)


@cache
def launcher() -> Bundle:
    """The program that starts jobs in pods: piecework's entrypoint as one file that Python runs."""
    from piecework import entrypoint

    folder = Path(entrypoint.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        _add(archive, "__main__.py", (folder / "unpack.py").read_bytes())
        # Without it, a piecework that is installed in the image would come first.
        _add(archive, "piecework/__init__.py", b"")
        for path in sorted(folder.glob("*.py")):
            _add(archive, f"piecework/entrypoint/{path.name}", path.read_bytes())
    data = buffer.getvalue()
    return Bundle(hashlib.sha256(data).hexdigest(), data)


class Shelf:
    """Where bundles are put for the pods of one namespace; remembers what it has put there."""

    def __init__(
        self, kube: Kube, namespace: str, store: Store | None, now: Clock = clock.now
    ) -> None:
        self.kube = kube
        self.namespace = namespace
        self.store = store
        self.now = now
        self._lock = threading.Lock()
        self._put_at: dict[str, float] = {}

    @classmethod
    def of(cls, kube: Kube, namespace: str, settings: Settings) -> Shelf:
        """The store of the settings; without one, ConfigMaps."""
        return cls(kube, namespace, Store.of(settings))

    def put_code(self, code: Bundle) -> CodeRef:
        """Puts the code where pods of the namespace can read it; putting it twice is once.

        Raises ConfigError where it needs a store and there is none, or the store cannot be used,
        and ClusterError.
        """
        store = self.store
        if store is not None:
            name = f"code/{code.sha256}.zip"
            self._once(name, lambda: store.write(name, code.data))
            return CodeRef(code.sha256, url=store.url_of(name))
        if len(code.data) > CONFIG_MAP_BYTES:
            raise ConfigError(
                f"the code has {len(code.data) / 1024:,.0f} KiB when zipped, and without a store "
                f"at most {CONFIG_MAP_BYTES // 1024} KiB reach a pod. Set `store` in "
                "piecework.toml to a place that the pods can read, like s3://bucket/piecework, or "
                "keep large files out of the folder"
            )
        return CodeRef(code.sha256, config_map=self._put_config_map("code", CODE_FILE, code))

    def put_launcher(self) -> str:
        """Puts piecework's launcher there; returns the name of its ConfigMap."""
        return self._put_config_map("launcher", LAUNCHER_FILE, launcher())

    def _put_config_map(self, kind: str, file: str, content: Bundle) -> str:
        name = f"piecework-{kind}-{content.sha256[:16]}"
        used = {USED: clock.to_text(self.now())}
        wanted: Object = {
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": {KIND: kind, "app.kubernetes.io/managed-by": "piecework"},
                "annotations": used,
            },
            "immutable": True,
            "binaryData": {file: base64.b64encode(content.data).decode()},
        }

        def put() -> None:
            try:
                self.kube.create(CONFIG_MAP, wanted)
                with suppress(ClusterError):  # tidying is no reason to fail
                    self._remove_old()
            except AlreadyThereError:
                change: Mapping[str, Any] = {"metadata": {"annotations": used}}
                self.kube.patch(CONFIG_MAP, name, change, self.namespace)

        self._once(name, put)
        return name

    def _remove_old(self) -> None:
        """Removes code and launchers of before that nobody needs: a cluster's memory is small."""
        listing = self.kube.list(CONFIG_MAP, self.namespace, labels=KIND, metadata_only=True)
        before = clock.to_text(self.now() - KEPT)
        old = {
            each["metadata"]["name"]
            for each in listing.items
            if (each["metadata"].get("annotations") or {}).get(USED, before) < before
        }
        if not old:
            return
        for pod in self.kube.list(POD, self.namespace, labels=labels.RUN).items:
            for volume in pod["spec"].get("volumes") or ():
                old.discard((volume.get("configMap") or {}).get("name"))
        for name in old:
            self.kube.delete(CONFIG_MAP, name, self.namespace)

    def _once(self, what: str, put: Any) -> None:
        """Puts it unless that was done a while ago. Others who want the same wait for it."""
        with self._lock:
            at = self._put_at.get(what)
            if at is not None and time.monotonic() - at < _TRUSTED_SECONDS:
                return
            put()
            self._put_at[what] = time.monotonic()
