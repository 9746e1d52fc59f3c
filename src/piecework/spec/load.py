"""Pipeline files, read into a checked Pipeline, or refused with every problem and its place.

What enters is a file, a text, or plain data (from the REST API); what leaves is a Pipeline. A file
is `pipeline: NAME` with `jobs:`, or `job: NAME` with one job's fields: a pipeline of one job.
Nothing that a file holds makes this raise anything but SpecError.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from piecework.errors import Problem, SpecError
from piecework.spec import custom, files
from piecework.spec.job import ENGINES
from piecework.spec.model import message_of
from piecework.spec.pipeline import OF_PIPELINE, Pipeline
from piecework.spec.templates import holds_template
from piecework.spec.tree import MOST_BYTES, Field, Node, field_path, read_tree
from piecework.spec.wording import MOST_PROBLEMS, describe, suggest

Location = tuple[str | int, ...]

#: The engines whose programs are files, and the field that names the file in the long form.
_FILES = {"python": "run", "spark": "file", "dask": "file", "h2o": "file"}
#: Looking for what may have been meant reads a folder; nobody needs more of it.
_MOST_HINTS = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where in the pipeline's models, and what."""

    location: Location
    message: str
    at_key: bool = False


def load_pipeline(path: Path) -> Pipeline:
    """Reads and checks the file, and that the programs it names exist beside it.

    Raises SpecError with all problems, ordered by their place.
    """
    return load_text(_read(path), str(path), path.parent)


def load_text(text: str | bytes, file: str, folder: Path | None = None) -> Pipeline:
    """Checks the text of a pipeline file. `file` is its name for messages.

    `folder` is what the paths in it are relative to; where it is None, no file is looked for.
    Raises SpecError with all problems, ordered by their place.
    """
    tree, problems = read_tree(text, file)
    if tree is None:
        raise SpecError(problems)
    return _check(tree.value, tree, problems, file, folder)


def load_data(data: Any, file: str, folder: Path | None = None) -> Pipeline:
    """Checks a pipeline that is plain data already, as JSON gives it; else as `load_text`."""
    return _check(data, None, [], file, folder)


def _read(path: Path) -> bytes:
    """At most one byte more than a pipeline file may have; never waits for a pipe or device."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as stream:
                return stream.read(MOST_BYTES + 1)
        kind = "a folder" if stat.S_ISDIR(mode) else "not a file"
        message = f"is {kind}; name a pipeline file"
    except FileNotFoundError:
        near = _near(path)
        message = f"does not exist; {suggest(path.name, near, 'name a pipeline file')}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot be read: {reason}"
    raise SpecError([Problem(str(path), 0, 0, "", message)])


def _near(path: Path) -> list[str]:
    try:
        return [found.name for found in path.parent.glob("*.y*ml")][:100]
    except OSError:
        return []


def _check(
    data: Any, tree: Node | None, problems: list[Problem], file: str, folder: Path | None
) -> Pipeline:
    if not isinstance(data, Mapping):
        wanted = "a pipeline file is a mapping that begins with 'pipeline: NAME' or 'job: NAME'"
        line, column = (tree.line, tree.column) if tree else (0, 0)
        message = f"found {describe(data)}; {wanted}"
        raise SpecError([*problems, Problem(file, line, column, "", message)])
    begun = "job" in data or any(engine in data for engine in ENGINES)
    single = begun and "jobs" not in data and "pipeline" not in data
    places = _Places(tree, _single_name(data) if single else None)
    findings: list[Finding] = []
    pipeline = None
    try:
        pipeline = Pipeline.model_validate(_widen(data) if single else dict(data))
    except ValidationError as error:
        findings += [
            Finding(each["loc"], message_of(each), each.get("ctx", {}).get("at") == "key")
            for each in error.errors(include_url=False)
        ]
    if folder is not None:
        findings += _missing_files(data, single, folder)
    problems += [told for each in findings if (told := places.problem(file, each)) is not None]
    if problems or pipeline is None:
        raise SpecError(_cut(problems, file))
    return pipeline


def _cut(problems: list[Problem], file: str) -> list[Problem]:
    """Each problem once, and no more of them than anybody reads."""
    told = sorted(dict.fromkeys(problems), key=lambda p: (p.line, p.column, p.field))
    if len(told) <= MOST_PROBLEMS:
        return told
    more = f"there are more than {MOST_PROBLEMS} problems; these are the first"
    return [*told[:MOST_PROBLEMS], Problem(file, 0, 0, "", more)]


def _widen(data: Mapping[str, Any]) -> dict[str, Any]:
    """A file with a single job as the pipeline that it stands for."""
    pipeline = {field: data[field] for field in OF_PIPELINE if field in data}
    job = {field: data[field] for field in data if field not in (*OF_PIPELINE, "job")}
    if isinstance(data.get("description"), str):
        pipeline["description"] = data["description"]
    named = {"pipeline": data["job"]} if "job" in data else {}
    return {**named, "jobs": {_single_name(data): job}, **pipeline}


def _single_name(data: Mapping[str, Any]) -> str:
    name = data.get("job")
    return name if isinstance(name, str) else "job"


class _Places:
    """Where in the file the values are that the models speak of.

    `single` is the job's name in a file with a single job, whose fields lie at the top.
    """

    def __init__(self, tree: Node | None, single: str | None) -> None:
        self._tree = tree
        self._single = single

    def problem(self, file: str, error: Finding) -> Problem | None:
        """The finding with its place; None where the reader has told of that value already."""
        if self._single is not None and error.location == ("jobs", self._single, "[key]"):
            return None  # the job's name is the pipeline's, too, and is told as that
        location = self._as_written(error.location)
        line, column = 0, 0
        if self._tree is not None:
            location = _with_engine(self._tree, location)
            field, node, rest = _follow(self._tree, location)
            at_key = error.at_key or node.fields is not None or node.items is not None
            place = field if field is not None and at_key else node
            line, column = place.line, place.column
            if node.wrong:
                return None
            if rest and node.fields is None:
                # A short form, like `python: a.py` for `python: {run: a.py}`.
                location = location[: len(location) - len(rest)]
        return Problem(file, line, column, field_path(location), error.message)

    def _as_written(self, location: Location) -> Location:
        if self._single is not None and location[:1] == ("pipeline",):
            location = ("job", *location[1:])
        elif self._single is not None and location[:1] == ("jobs",):
            location = location[2:] or ("job",)
        return location[:-1] if location[-1:] == ("[key]",) else location


def _with_engine(tree: Node, location: Location) -> Location:
    """Another package's engine by its name, under which it is written, not as `custom`."""
    for at, part in enumerate(location):
        if part == "custom" and location[at + 1 : at + 2] in (("program",), ("engine",)):
            job = _follow(tree, location[:at])[1].fields or {}
            written = next((name for name in job if name in custom.registered()), None)
            if written is not None and "custom" not in job:
                return (*location[:at], written, *location[at + 2 :])
    return location


def _follow(tree: Node, location: Location) -> tuple[Field | None, Node, Location]:
    """The innermost node on the way to the location, its key's place, and what is left of it."""
    node, field = tree, None
    for at, part in enumerate(location):
        inner: Node | None = None
        if node.fields is not None and part in node.fields:
            field = node.fields[str(part)]
            inner = field.node
        elif node.items is not None and isinstance(part, int) and part < len(node.items):
            inner, field = node.items[part], None
        if inner is None:
            return field, node, location[at:]
        node = inner
    return field, node, ()


def _missing_files(data: Mapping[str, Any], single: bool, folder: Path) -> Iterator[Finding]:
    """Programs that cannot be used. What is wrong with the path as such, the models tell."""
    jobs = {_single_name(data): data} if single else data.get("jobs")
    told = 0
    for name, job in jobs.items() if isinstance(jobs, Mapping) else ():
        for engine, inner in _FILES.items() if isinstance(job, Mapping) else ():
            written = job.get(engine)
            location: Location = ("jobs", name, engine)
            if isinstance(written, Mapping):
                written, location = written.get(inner), (*location, inner)
            if not isinstance(written, str) or holds_template(written):
                continue
            if not written.endswith(".py") or not _is_inside(written):
                continue
            message = files.find_fault(written, folder, hint=told < _MOST_HINTS)
            if message is not None:
                told += 1
                yield Finding(location, message)


def _is_inside(path: str) -> bool:
    try:
        files.check_path(path)
    except ValueError:
        return False
    return True
