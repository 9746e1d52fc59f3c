"""A DAG bundle of pipeline files: each `.yaml` file of a folder is a DAG file of its own.

Airflow imports this module wherever it reads DAGs (the DAG processor and the workers), because the
bundle's class is named in `dag_bundle_config_list`; importing it registers the importer of
pipeline files with Airflow's registry, which has no other way in yet.
"""

from __future__ import annotations

from airflow.dag_processing.bundles.local import LocalDagBundle
from airflow.dag_processing.importers import get_importer_registry

from piecework.airflow.importer import PipelineImporter

_registry = get_importer_registry()
if not isinstance(_registry.get_importer("pipeline.yaml"), PipelineImporter):
    _registry.register(PipelineImporter())


class PipelineBundle(LocalDagBundle):
    """A folder in which pipeline files are DAG files, beside Python ones."""
