"""Airflow's importer of pipeline files: each file is a DAG file with import errors of its own."""

from __future__ import annotations

from pathlib import Path

from airflow.dag_processing.importers import AbstractDagImporter, DagImportError, DagImportResult
from airflow.sdk import DAG

from piecework.airflow.dags import build_dag
from piecework.airflow.publication import Publication, error_of_content, read_publication
from piecework.errors import PieceworkError, SpecError
from piecework.spec.load import load_text

EXTENSIONS = (".yaml", ".yml")


class PipelineImporter(AbstractDagImporter):
    """Turns one pipeline file into one DAG, or into import errors that name file, line, column."""

    @classmethod
    def supported_extensions(cls) -> list[str]:
        """Pipeline files are YAML."""
        return list(EXTENSIONS)

    def list_dag_files(self, directory: object, safe_mode: bool = True) -> object:  # noqa: ARG002
        """All of them: Airflow's heuristic looks for words that they need not hold."""
        return super().list_dag_files(directory, safe_mode=False)

    def import_file(
        self,
        file_path: str | Path,
        *,
        bundle_path: Path | None = None,
        bundle_name: str | None = None,  # noqa: ARG002 - Airflow's signature
        safe_mode: bool = True,  # noqa: ARG002 - Airflow's signature
    ) -> DagImportResult:
        """The DAG of the file, or what is wrong with it; never raises."""
        relative = self.get_relative_path(file_path, bundle_path)
        result = DagImportResult(file_path=relative)
        content = None
        try:
            publication = read_publication(Path(file_path))
            content = publication.content
            dag = _build(publication)
        except SpecError as error:
            result.errors.append(_describe(relative, error, content))
            return result
        except (PieceworkError, OSError, ValueError) as error:
            message = error_of_content(f"{file_path}: {error}", content)
            result.errors.append(DagImportError(relative, message))
            return result
        dag.fileloc = str(file_path)
        dag.relative_fileloc = relative
        result.dags.append(dag)
        return result


def import_pipeline(path: Path) -> DAG:
    """The DAG of a pipeline file. Raises SpecError with all that is wrong, OSError."""
    return _build(read_publication(path))


def _build(publication: Publication) -> DAG:
    pipeline = load_text(publication.text, str(publication.source), publication.code)
    return build_dag(pipeline, publication.code, content=publication.content)


def _describe(relative: str, error: SpecError, content: str | None) -> DagImportError:
    first = error.problems[0] if error.problems else None
    return DagImportError(
        file_path=relative,
        message=error_of_content(str(error), content),
        error_type="pipeline",
        line_number=first.line if first else None,
        column_number=first.column if first else None,
    )
