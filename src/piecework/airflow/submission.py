"""Any job, requested over Airflow's REST API alone: the DAG `piecework_submit`.

In: the configuration of a pipeline run, `{"job": {...}, "code": FOLDER, "params": {...}}`, where
`job` is what a file with a single job says (`job: NAME`, its engine and fields). Out: a run of
that job through the same queue, ledger and machines as any other. What is wrong with it fails the
task, with every problem in its log and its note.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from piecework.airflow.assignment import fill_params
from piecework.airflow.operator import JobOperator, start_in_triggerer, take_program
from piecework.airflow.trigger import JobTrigger
from piecework.config import Settings
from piecework.errors import Problem, SpecError
from piecework.spec.load import load_data

DAG_ID = "piecework_submit"
_FIELDS = ("job", "code", "params")
_CONF = "the request"


class SubmittedJobTrigger(JobTrigger):
    """Follows the run of a job that the pipeline run's configuration describes."""

    repeat_errors = True  # the task was there before the job, so its retries are not the job's

    def read_params(self, context: Any) -> dict[str, Any]:
        """Takes the job from the configuration; returns its parameters. Raises SpecError."""
        request = getattr(context.get("dag_run"), "conf", None) or {}
        code = read_code(request, self.load_settings())
        pipeline = load_data(request.get("job"), _CONF, code)
        (name,) = pipeline.jobs
        document = pipeline.job(name).model_dump(mode="json", exclude_unset=True)
        document.pop("after", None)
        self.engine, self.program, self.args, self.env = take_program(document)
        self.document, self.job_name, self.code = document, name, str(code)
        self.pipeline = pipeline.name
        spec = {
            param: declared.model_dump(mode="json", exclude_unset=True)
            for param, declared in pipeline.params.items()
        }
        return fill_params(spec, request.get("params") or {})


def read_code(request: Mapping[str, Any], settings: Settings) -> Path:
    """The folder of the request's programs. Raises SpecError for a request that is none.

    It must exist below one of the folders that the setting `submit_roots` names: who may use
    Airflow's API may then start what lies there, and nothing else.
    """
    problems = [
        Problem(_CONF, 0, 0, name, f"is unknown; a request has {', '.join(_FIELDS)}")
        for name in request
        if name not in _FIELDS
    ]
    job = request.get("job")
    if not isinstance(job, Mapping):
        wrong = 'found no job; it is what a job file says, like {"job": "hello", "python": "a.py"}'
        problems.append(Problem(_CONF, 0, 0, "job", wrong))
    elif "jobs" in job:
        wrong = "found several jobs; a pipeline is published as a DAG: piecework submit FILE"
        problems.append(Problem(_CONF, 0, 0, "job.jobs", wrong))
    if not isinstance(request.get("params") or {}, Mapping):
        problems.append(Problem(_CONF, 0, 0, "params", "these are names with values"))
    code = request.get("code")
    roots = [Path(root).expanduser().resolve() for root in settings.submit_roots.split(":") if root]
    folder = Path(code).resolve() if isinstance(code, str) and code.startswith("/") else None
    allowed = ", ".join(str(root) for root in roots) or "(none: set submit_roots)"
    if folder is None:
        wrong = f"found {code!r}; it is the folder of the programs, below {allowed}"
        problems.append(Problem(_CONF, 0, 0, "code", wrong))
    elif not any(folder.is_relative_to(root) for root in roots):
        wrong = f"found {code!r}; programs of requests lie below {allowed}"
        problems.append(Problem(_CONF, 0, 0, "code", wrong))
    elif not folder.is_dir():
        problems.append(Problem(_CONF, 0, 0, "code", f"found {code!r}, which is no folder"))
    if problems:
        raise SpecError(problems)
    assert folder is not None
    return folder


def submit_dag() -> DAG:
    """The DAG `piecework_submit`; the platform has it from its first start."""
    dag = DAG(
        dag_id=DAG_ID,
        description="Runs the one job that the pipeline run's configuration describes.",
        schedule=None,
        start_date=datetime(2020, 1, 1, tzinfo=UTC),
        catchup=False,
        tags=["piecework"],
        doc_md=__doc__,
        max_active_tasks=10_000,
    )
    task = JobOperator(
        task_id="job", dag=dag, python="requested.py", code="/", pipeline=DAG_ID, retries=0
    )
    start_in_triggerer(task, SubmittedJobTrigger)
    return dag
