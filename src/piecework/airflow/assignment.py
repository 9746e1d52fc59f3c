"""What a task asks for, checked once its templates are rendered.

In: the parts of a job as JSON, parameters as given. Out: an Assignment, or a SpecError with all
that is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from piecework.config import Settings
from piecework.errors import Problem, SpecError
from piecework.plan.written_pod import WrittenPod
from piecework.runners.runner import Owner
from piecework.spec.job import Job
from piecework.spec.model import message_of
from piecework.spec.param import Param
from piecework.spec.pipeline import Pipeline
from piecework.spec.tree import field_path

#: In a pipeline run's conf: the machine pool of all of its jobs, whatever they say. No parameter
#: has such a name.
MACHINE_POOL = "piecework.pool"


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one task asks for: the job with its templates rendered, and who asks."""

    run: str
    job_name: str
    job: Job
    code: Path
    data: str
    owner: Owner
    pipeline: str | None
    pipeline_run: str
    params: Mapping[str, Any] = field(default_factory=dict)
    #: Whether failures of the program are repeated here instead of by Airflow's retries.
    repeat_errors: bool = False
    #: The pod that a KubernetesPodOperator would create, where the task is one.
    pod: WrittenPod | None = None


def read_job(
    document: Mapping[str, Any], engine: str, program: Any, args: Any, env: Mapping[str, Any]
) -> Job:
    """The job from its parts, checked; rendered values become texts.

    Raises SpecError where the rendered job is not a job.
    """
    written = dict(document) | {
        engine: program,
        "args": [_text(arg) for arg in args],
        "env": {name: _text(value) for name, value in env.items()},
    }
    try:
        return Job.model_validate(written)
    except ValidationError as error:
        raise SpecError(
            [
                Problem("(task)", 0, 0, field_path(found["loc"]), message_of(found))
                for found in error.errors(include_url=False)
            ]
        ) from error


def fill_params(spec: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a pipeline run: those given, checked, else the defaults.

    Raises SpecError with everything that is wrong.
    """
    params = {name: Param.model_validate(param) for name, param in spec.items()}
    placeholder = {"job": Job.model_validate({"python": "job.py"})}
    return Pipeline(pipeline="params", jobs=placeholder, params=params).fill_params(given)


def split_conf(conf: Mapping[str, Any] | None) -> tuple[dict[str, Any], str | None]:
    """A pipeline run's parameters, and the machine pool that it was asked for on, if any."""
    params = dict(conf or {})
    pool = params.pop(MACHINE_POOL, None)
    return params, pool if isinstance(pool, str) and pool else None


def data_of(settings: Settings, pipeline: str, pipeline_run: str) -> str:
    """Where the jobs of one pipeline run exchange data."""
    separator = "" if settings.data.endswith("/") else "/"
    run = "".join(c if c.isalnum() or c in "_.-" else "-" for c in pipeline_run)
    return f"{settings.data}{separator}{pipeline}/{run}"


def _text(value: Any) -> str:
    """A value from another task as an argument: texts as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
