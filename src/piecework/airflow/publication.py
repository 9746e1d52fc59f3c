"""Published pipeline files: the file as it was, with a first line that says where it came from.

In: a pipeline file anywhere. Out: a copy in `$PIECEWORK_HOME/pipelines`, from which the platform
makes a DAG whose programs stay in the original's folder. The line keeps copy and origin in one
file, so that one rename publishes both.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from piecework.airflow.configuration import CONTENT_TAG, PlatformFolder
from piecework.config import Settings
from piecework.spec.load import load_pipeline

_MARK = b"# published by piecework: "


@dataclass(frozen=True, slots=True)
class Publication:
    """A pipeline file as Airflow finds it. `content` is None where nobody published it."""

    text: bytes
    source: Path
    code: Path
    content: str | None


def publish(file: Path, settings: Settings) -> str:
    """Checks a pipeline or one-job file and gives it to the platform; returns the DAG's id.

    The same content from the same place changes nothing; another replaces it. Raises SpecError
    with all that is wrong.
    """
    file = file.absolute()
    pipeline = load_pipeline(file)
    text = file.read_bytes()
    origin = {"source": str(file), "content": _digest(file, text)}
    published = _place(settings, pipeline.name)
    body = _MARK + json.dumps(origin, sort_keys=True).encode() + b"\n" + text
    if published.is_file() and published.read_bytes() == body:
        return pipeline.name
    published.parent.mkdir(parents=True, exist_ok=True)
    temporary = published.with_name(f".{published.name}.{os.getpid()}.new")
    temporary.write_bytes(body)
    temporary.replace(published)
    return pipeline.name


def unpublish(pipeline: str, settings: Settings) -> None:
    """Takes a pipeline back; its DAG becomes inactive, its runs stay."""
    _place(settings, pipeline).unlink(missing_ok=True)


def read_again(pipeline: str, settings: Settings) -> None:
    """Has Airflow read a published file again, though it has not changed."""
    with suppress(FileNotFoundError):
        os.utime(_place(settings, pipeline))


def published_content(pipeline: str, settings: Settings) -> str | None:
    """What names the published content of a pipeline; None where it is not published."""
    try:
        return read_publication(_place(settings, pipeline)).content
    except OSError:
        return None


def read_publication(path: Path) -> Publication:
    """A pipeline file, published or put there by hand. Raises OSError."""
    text = path.read_bytes()
    first, newline, rest = text.partition(b"\n")
    if newline and first.startswith(_MARK):
        try:
            origin = json.loads(first[len(_MARK) :])
            source = Path(origin["source"])
            return Publication(rest, source, source.parent, str(origin["content"]))
        except (ValueError, KeyError, TypeError):
            pass  # a comment that looks like ours; it is one all the same
    return Publication(text, path, path.parent, None)


def error_of_content(error: str, content: str | None) -> str:
    """An import error as Airflow keeps it: with what it is about, where that was published."""
    return error if content is None else f"{error}\n{CONTENT_TAG}{content}"


def is_error_of(error: str, content: str) -> bool:
    """Whether an import error is about this content, and not about one that was there before."""
    return error.rstrip().endswith(f"\n{CONTENT_TAG}{content}")


def _place(settings: Settings, pipeline: str) -> Path:
    return PlatformFolder(settings.home).published / f"{pipeline}.yaml"


def _digest(file: Path, text: bytes) -> str:
    return hashlib.blake2b(str(file).encode() + b"\0" + text, digest_size=6).hexdigest()
