"""The DAG processor of the platform: Airflow's own, which also finds pipeline files.

Airflow 3.3 imports a DAG file by whatever importer is registered for its extension, but its
manager still looks for Python files alone (`list_py_file_paths`); one method is overridden here to
ask the registry. Everything else is Airflow's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.dag_processing.importers import get_importer_registry
from airflow.dag_processing.manager import DagFileProcessorManager
from airflow.jobs.dag_processor_job_runner import DagProcessorJobRunner
from airflow.jobs.job import Job, run_job
from airflow.models.errors import ParseImportError
from airflow.utils.process_utils import set_component_mp_start_method
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from airflow.utils.session import create_session
from sqlalchemy import select

from piecework.airflow.bundle import PipelineBundle
from piecework.airflow.importer import EXTENSIONS
from piecework.errors import SpecError
from piecework.spec.load import load_pipeline


class PipelineFileProcessorManager(DagFileProcessorManager):
    """Finds the files of a pipeline bundle by the registry of importers."""

    def _find_files_in_bundle(self, bundle: Any) -> list[Path]:
        if not isinstance(bundle, PipelineBundle):
            return list(super()._find_files_in_bundle(bundle))
        found = get_importer_registry().list_dag_files(bundle.path, self.dag_discovery_safe_mode)
        return sorted(Path(path).relative_to(bundle.path) for path in found)

    def clear_orphaned_import_errors(self, bundle_name: str, observed_filelocs: set[str]) -> None:
        """As Airflow's, but spares what `load_dags` found: its files are nobody's DAG files."""
        with create_session() as session:
            noted = session.scalars(
                select(ParseImportError.filename).where(ParseImportError.bundle_name == bundle_name)
            ).all()
        broken = {name for name in noted if name and _is_broken(Path(name))}
        super().clear_orphaned_import_errors(
            bundle_name=bundle_name, observed_filelocs=observed_filelocs | broken
        )


def _is_broken(path: Path) -> bool:
    if not path.is_absolute() or path.suffix not in EXTENSIONS:
        return False
    try:
        load_pipeline(path)
    except SpecError:
        return path.is_file()
    return False


@providers_configuration_loaded
def main() -> None:
    """Runs until SIGTERM, as `airflow dag-processor` does."""
    set_component_mp_start_method("dag_processor")
    runner = DagProcessorJobRunner(job=Job(), processor=PipelineFileProcessorManager(max_runs=-1))
    run_job(job=runner.job, execute_callable=runner._execute)


if __name__ == "__main__":
    main()
