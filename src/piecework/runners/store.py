"""The store: where code, logs, results and artifacts of a cluster's runs are kept.

    STORE/code/SHA256.zip          whoever starts a run puts it there; the launcher reads it
    STORE/logs/ATTEMPT.log         the keeper puts it there
    STORE/results/ATTEMPT.json     the launcher, where a result is too long for its pod
    STORE/artifacts/ATTEMPT/       the launcher

Enters: the settings, with `store` and how data is reached ([data]). Leaves: bytes, at any URL that
fsspec knows. Credentials are those of this process: its environment, or its machine's role.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from piecework.config import Settings
from piecework.entrypoint.data import hadoop_properties, variables_of
from piecework.errors import ConfigError, PieceworkError, RunnerError
from piecework.runners.pod_fields import Kept
from piecework.runners.runner import AttemptStatus
from piecework.spec.data import load_data

#: Their writes are whole or not at all; elsewhere a file gets its name when it is complete.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "r2"})
#: How often, and how long after another, a store that does not answer is asked for a result.
_TRIES, _PAUSE_SECONDS = 4, 1.5


class UnreadableError(RunnerError):
    """The store does not answer, or refuses."""

    retryable = True


@dataclass(frozen=True)
class Store:
    """A folder at a URL. `options` are those of its file system in fsspec."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Store | None:
        """The store of the settings, where they have one. Raises ConfigError."""
        if not settings.store:
            return None
        return cls(settings.store, _options(settings))

    def url_of(self, name: str) -> str:
        """Where the file or folder of that name is."""
        return f"{self.url.rstrip('/')}/{name}"

    def file_system(self) -> tuple[Any, str]:
        """The file system, and the path of the store in it. Raises ConfigError."""
        return _file_system(self.url, self.options)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, once: what is named by its hash is never changed. Raises ConfigError."""
        url = self.url_of(name)
        fs, path = _file_system(url, self.options)
        try:
            _write(fs, path, data)
        except Exception as error:  # each store has errors of its own
            raise ConfigError(
                f"the code cannot be written to {url}: {_said(error)}. Correct `store` in "
                "piecework.toml, or the rights there"
            ) from error

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """Bytes of a file; None where there is none. Raises RunnerError, ConfigError."""
        url = self.url_of(name)
        fs, path = _file_system(url, self.options)
        try:
            found: bytes = fs.cat_file(path, start=start, end=end)
        except FileNotFoundError:
            return None
        except Exception as error:  # each store has errors of its own
            raise UnreadableError(f"{url} cannot be read: {_said(error)}") from error
        return found

    def read_log(self, attempt: str, offset: int, limit: int) -> bytes:
        """Bytes of the log that the keeper kept of a finished attempt; empty where it kept none."""
        return self.read(f"logs/{attempt}.log", offset, offset + limit) or b""

    def read_result(self, attempt: str, kept: Kept) -> Any:
        """The result that the launcher put there; raises RunnerError where it is not that one."""
        name = f"results/{attempt}.json"
        data = self.read(name)
        if data is None:
            raise RunnerError(f"{self.url_of(name)} is not there any more")
        if hashlib.sha256(data).hexdigest() != kept.sha256:
            raise RunnerError(f"{self.url_of(name)} is not what the attempt had written there")
        return json.loads(data)


def fetch_result(settings: Settings, status: AttemptStatus) -> AttemptStatus:
    """The status with the result that is in the store; with `lost` where it cannot be had."""
    assert status.kept is not None
    store, why = Store.of(settings), ""
    if store is None:
        why = "piecework.toml here names no `store`"
    for number in range(_TRIES if store is not None else 0):
        if number:
            time.sleep(_PAUSE_SECONDS)
        try:
            assert store is not None
            return replace(status, result=store.read_result(status.attempt, status.kept))
        except PieceworkError as error:
            why = str(error)
            if not error.retryable:
                break
    lost = f"it succeeded, but its result of {status.kept.bytes:,} bytes cannot be read: {why}"
    return replace(status, lost=lost)


def _options(settings: Settings) -> dict[str, Any]:
    """What [data] says of the store's file system, as fsspec takes it."""
    scheme = settings.store.partition("://")[0]
    told = load_data(settings).order(on_cluster=False)
    if scheme in ("s3", "s3a"):
        found: dict[str, Any] = json.loads(variables_of(told).get("FSSPEC_S3", "{}"))
        return found
    return dict(hadoop_properties({**told, "s3": None})) if scheme == "hdfs" else {}


def _write(fs: Any, path: str, data: bytes) -> None:
    if fs.exists(path) and fs.size(path) == len(data):
        return
    if not make_folder_for(fs, path):
        fs.pipe_file(path, data)
        return
    draft = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    fs.pipe_file(draft, data)
    fs.mv(draft, path)
    if fs.exists(draft):  # HDFS leaves it where another writer came first
        fs.rm(draft)


def make_folder_for(fs: Any, path: str) -> bool:
    """Makes the folder that the file will be in; False where there are no folders, as on S3."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if protocols & _OBJECT_STORES:
        return False
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    return True


def _file_system(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(
            f"`store` in piecework.toml cannot be used here, for {url}: {_said(error)}"
        ) from error
    return fs, path


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
