"""A pipeline: jobs with an order and a schedule; one Airflow DAG."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from piecework.spec.job import Job
from piecework.spec.model import Model, Name


class Pipeline(Model):
    """Jobs with an order and a schedule. What it says of team, pool and priority its jobs inherit."""

    pipeline: Name
    jobs: dict[Name, Job] = Field(min_length=1, max_length=1000)
    description: str | None = None
    team: Name | None = None
    pool: Name | None = None
    priority: int = Field(0, ge=-1000, le=1000)
    schedule: str | None = Field(None, description="Cron, or @daily and the like; none: on request.")
    timezone: str = "UTC"
    params: dict[str, Any] = Field(
        default_factory=dict, description="Defaults of the parameters: {{ params.NAME }}."
    )

    @property
    def name(self) -> str:
        """The pipeline's name, which is also its DAG's id."""
        return self.pipeline
