"""A folder of pipeline files as DAGs, for people's own dags folder.

In: a folder; in a Python file of the dags folder:

    from piecework.airflow.folder import load_dags

    globals().update(load_dags("/srv/pipelines"))

Out: a DAG for each file, by its id. A broken file hides no other: it becomes an import error under
its own name. (The platform of this computer reads pipeline files without such a Python file; see
bundle.py.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_parsing_context

from piecework.airflow.importer import EXTENSIONS, import_pipeline
from piecework.errors import PieceworkError, Problem, SpecError

#: Finds the name without reading all of a file: at run time one DAG of a thousand is wanted.
_NAME = re.compile(rb"^(?:pipeline|job)[ \t]*:[ \t]*['\"]?([A-Za-z0-9_-]+)", re.MULTILINE)


def load_dags(folder: str | Path) -> dict[str, DAG]:
    """The DAGs of all pipeline files in the folder and below, by their ids.

    Where Airflow runs one task, only that task's DAG is made.
    """
    folder = Path(folder).absolute()
    wanted = get_parsing_context().dag_id
    dags: dict[str, DAG] = {}
    files: dict[str, Path] = {}
    for path in _pipeline_files(folder):
        if wanted is not None and _name_of(path) not in (wanted, None):
            continue
        try:
            dag = import_pipeline(path)
            if dag.dag_id in files:
                first = files[dag.dag_id]
                wrong = f"found {dag.dag_id!r}, which {first} has already; give it another name"
                raise SpecError([Problem(str(path), 0, 0, "pipeline", wrong)])
        except (PieceworkError, OSError, ValueError) as error:
            broken = BrokenPipeline(path, error)
            dags[broken.dag_id] = broken
            continue
        files[dag.dag_id] = path
        dags[dag.dag_id] = dag
    if wanted is not None:
        return {dag_id: dag for dag_id, dag in dags.items() if dag_id == wanted}
    return dags


class BrokenPipeline(DAG):
    """Stands for a file that is no pipeline: serializing it raises what is wrong with the file.

    Airflow notes such an error under the DAG's `relative_fileloc`, and goes on with the others; an
    error under the Python file's own name would take all of its DAGs away.
    """

    def __init__(self, path: Path, error: Exception) -> None:
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_error", None)
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", path.name)[:200]
        super().__init__(dag_id=f"broken-{name}", schedule=None)
        object.__setattr__(self, "_error", error)

    @property
    def relative_fileloc(self) -> str:
        """The broken file, instead of the Python file that found it."""
        return str(self.__dict__["_path"])

    @relative_fileloc.setter
    def relative_fileloc(self, value: object) -> None:
        """Airflow sets it to the Python file."""

    @property
    def doc_md(self) -> Any:
        """Asked for by the serializer alone."""
        error = self.__dict__["_error"]
        if error is not None:
            raise error
        return None

    @doc_md.setter
    def doc_md(self, value: object) -> None:
        """There is nothing to say but the error."""


def _pipeline_files(folder: Path) -> Iterator[Path]:
    """In one order everywhere; hidden files and folders are nobody's pipelines."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in EXTENSIONS and not hidden and path.is_file():
            yield path


def _name_of(path: Path) -> str | None:
    try:
        found = _NAME.search(path.read_bytes())
    except OSError:
        return None
    return found[1].decode() if found else None
