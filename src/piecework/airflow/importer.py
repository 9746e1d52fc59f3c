"""Airflow's importer of pipeline files."""
from airflow.dag_processing.importers import AbstractDagImporter, DagImportResult
class PipelineImporter(AbstractDagImporter):
    @classmethod
    def supported_extensions(cls): return [".yaml",".yml"]
    def import_file(self,file_path,*,bundle_path=None,bundle_name=None,safe_mode=True):
        return DagImportResult(file_path=str(file_path))
