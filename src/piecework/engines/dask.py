"""The engine `dask`: a Python file whose `dask.distributed.Client()` finds a cluster."""

from __future__ import annotations

from typing import Any

from piecework.engines.engine import Launch
from piecework.plan.plan import Plan
from piecework.spec.job import DaskProgram


class DaskEngine:
    """Starts a cluster sized from the machine, and the file beside it."""

    name = "dask"
    program = DaskProgram

    def launch(self, plan: Plan, program: Any, code: str) -> Launch:
        """The starter `dask`."""
        return Launch(
            engine=self.name,
            starter="dask",
            program={"file": program.file, "threads_per_worker": program.threads_per_worker},
            args=plan.job.args,
            env=plan.job.env,
            code=code,
        )
