"""The engine `h2o`: a PySpark file whose `H2OContext.getOrCreate()` finds H2O on the machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from piecework.engines.engine import Launch
from piecework.engines.spark import SparkEngine
from piecework.errors import InputError
from piecework.plan.plan import Plan
from piecework.spec.job import H2oProgram

_DYNAMIC = "spark.dynamicAllocation.enabled"


class H2oEngine:
    """Starts Spark as the engine `spark` does, with what H2O needs of it."""

    name = "h2o"
    program = H2oProgram

    def launch(self, plan: Plan, program: Any, code: str) -> Launch:
        """The starter `h2o`; raises InputError for properties that are not the job's to set."""
        if program.conf.get(_DYNAMIC, "false").strip().lower() != "false":
            raise InputError(
                f"job {plan.job_name}: h2o.conf sets {_DYNAMIC}; H2O's data is in the memory of "
                "its executors, and the loss of one ends it. Remove it"
            )
        started = SparkEngine().launch(plan, program, code)
        return replace(started, engine=self.name, starter="h2o")
