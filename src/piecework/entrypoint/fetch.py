"""Gets the code that a job is made of, checks that it is that code, and unpacks it.

    {"sha256": "...", "path": "/piecework/code/code.zip"}    mounted into the container
    {"sha256": "...", "url": "s3://bucket/piecework/code/....zip"}

http(s) and file URLs need nothing; others need the package fsspec, with what it needs for them, in
the image. Nothing is unpacked, and so nothing runs, before the hash of all bytes is right.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from piecework.entrypoint.start import CannotStart

_TRIES, _PAUSE_SECONDS, _TIMEOUT_SECONDS = 4, 1.0, 60.0
#: What the AWS SDK calls it where neither a Secret nor the machine has any.
_NO_CREDENTIALS = "NoCredentialsError"
#: More than any code has; the sender has a limit of its own.
_MOST_BYTES = 2**30


def fetch_code(code: Mapping[str, str], folder: Path) -> None:
    """Unpacks the code into the folder. Raises CannotStart with what is wrong, and what to do."""
    where = code.get("url") or code["path"]
    data = _read(where)
    found = hashlib.sha256(data).hexdigest()
    if found != code["sha256"]:
        raise CannotStart(
            f"the code at {where} is not the code that was sent: its SHA-256 is {found}, and "
            f"{code['sha256']} was sent. It was not unpacked. Somebody changed it, or it was "
            "written in part: remove it, and start the job again"
        )
    _unpack(data, folder, where)


def _read(where: str) -> bytes:
    """The bytes at a path or URL; a store that stumbles is asked again."""
    last: Exception | None = None
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            return _read_once(where)
        except CannotStart:
            raise
        except (FileNotFoundError, PermissionError) as error:
            last = error
            break
        except Exception as error:  # each store has errors of its own
            last = error
            if type(error).__name__ == _NO_CREDENTIALS:
                break
    said = f"{type(last).__name__}: {last}" if str(last) else type(last).__name__
    raise CannotStart(
        f"the code cannot be read from {where}: {said}. Look whether it is there, and whether pods "
        "may read it"
    ) from last


def _read_once(where: str) -> bytes:
    scheme, separator, rest = where.partition("://")
    if not separator:
        return Path(where).read_bytes()
    if scheme == "file":
        return Path("/" + rest.lstrip("/")).read_bytes()
    if scheme in ("http", "https"):
        from urllib.request import urlopen

        with urlopen(where, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - of that scheme
            data: bytes = answer.read()
        return data
    try:
        import fsspec

        with fsspec.open(where, "rb") as stream:
            found: bytes = stream.read()
    except (ImportError, ValueError) as error:  # ValueError: a protocol that fsspec does not know
        raise CannotStart(
            f"the code is at {where}, and the image cannot read from there: {error}. Install "
            f"fsspec and what it needs for {scheme}:// in the image, or leave `store` out of "
            "piecework.toml: small code then comes through the cluster's API"
        ) from error
    return found


def _unpack(data: bytes, folder: Path, where: str) -> None:
    """Writes the files of the zip below the folder, and nowhere else."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = archive.infolist()
            for member in members:
                _check(member, where)
            if sum(member.file_size for member in members) > _MOST_BYTES:
                raise CannotStart(f"the code at {where} has more than {_MOST_BYTES >> 30} GiB")
            for member in members:
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as stream:
                    shutil.copyfileobj(source, stream)
                if member.external_attr >> 16 & 0o100:
                    target.chmod(0o755)
    except (zipfile.BadZipFile, OSError) as error:
        raise CannotStart(f"the code at {where} cannot be unpacked: {error}") from error


def _check(member: zipfile.ZipInfo, where: str) -> None:
    """Refuses what is no plain file below the folder. Raises CannotStart."""
    parts = Path(member.filename).parts
    kind = member.external_attr >> 16 & 0o170000
    plain = kind in (0, 0o100000) and not member.is_dir()
    if not plain or not parts or member.filename.startswith("/") or ".." in parts:
        raise CannotStart(
            f"the code at {where} holds {member.filename!r}, which is no plain file below its "
            "folder; nothing of it was unpacked"
        )
