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
from airflow.utils.process_utils import set_component_mp_start_method
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from piecework.airflow.bundle import PipelineBundle


class PipelineFileProcessorManager(DagFileProcessorManager):
    """Finds the files of a pipeline bundle by the registry of importers."""

    def _find_files_in_bundle(self, bundle: Any) -> list[Path]:
        if not isinstance(bundle, PipelineBundle):
            return list(super()._find_files_in_bundle(bundle))
        found = get_importer_registry().list_dag_files(bundle.path, self.dag_discovery_safe_mode)
        return sorted(Path(path).relative_to(bundle.path) for path in found)


@providers_configuration_loaded
def main() -> None:
    """Runs until SIGTERM, as `airflow dag-processor` does."""
    set_component_mp_start_method("dag_processor")
    runner = DagProcessorJobRunner(job=Job(), processor=PipelineFileProcessorManager(max_runs=-1))
    run_job(job=runner.job, execute_callable=runner._execute)


if __name__ == "__main__":
    main()
