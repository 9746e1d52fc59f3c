"""The engine `spark`: a PySpark file whose session is sized from the machine."""

from __future__ import annotations

from typing import Any

from piecework.engines.engine import Launch
from piecework.errors import InputError
from piecework.plan.plan import Plan
from piecework.spec.job import SparkProgram

#: What piecework sets from the machine, so that a job keeps to it. All else is the user's to set.
FIXED = {
    "spark.master": "the master follows from `mode` and from the cores of the machine",
    "spark.submit.deployMode": "the driver runs in the job",
    "spark.driver.host": "the driver listens on this machine only",
    "spark.driver.bindAddress": "the driver listens on this machine only",
    "spark.local.dir": "temporary files belong to the attempt and end with it",
}


class SparkEngine:
    """Starts a file that says no more than `SparkSession.builder.getOrCreate()`."""

    name = "spark"
    program = SparkProgram

    def launch(self, plan: Plan, program: Any, code: str) -> Launch:
        """The starter `spark`; raises InputError for properties that the machine decides."""
        for key in program.conf:
            if key in FIXED:
                raise InputError(
                    f"job {plan.job_name}: spark.conf sets {key}, which is not the job's to set: "
                    f"{FIXED[key]}. Remove it"
                )
        return Launch(
            engine=self.name,
            starter="spark",
            program={"file": program.file, "mode": program.mode, "conf": dict(program.conf)},
            args=plan.job.args,
            env=plan.job.env,
            code=code,
        )
