"""The engine `spark`: a PySpark file whose session is sized from the machine."""

from __future__ import annotations

from typing import Any

from piecework.engines.engine import Launch
from piecework.errors import InputError
from piecework.plan.executors import MODES, divide, has_executors
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
#: The same where executors are pods: they fill their machines, and are the run's own.
FIXED_PODS = {
    "spark.driver.port": "the driver has its pod to itself, and executors look for it there",
    "spark.driver.blockManager.port": "the driver has its pod to itself",
    "spark.executor.memory": "executors fill their machines; spark.executor.cores divides them",
    "spark.executor.memoryOverhead": "executors fill their machines",
    "spark.executor.memoryOverheadFactor": "executors fill their machines",
    "spark.executor.pyspark.memory": "Python's workers get what the heap leaves of the executor",
    "spark.driver.memoryOverhead": "it follows from spark.driver.memory",
    "spark.driver.memoryOverheadFactor": "it follows from spark.driver.memory",
    "spark.kubernetes.memoryOverheadFactor": "executors fill their machines",
    "spark.kubernetes.executor.request.cores": "executors fill their machines",
    "spark.kubernetes.executor.limit.cores": "a machine is the run's alone; nobody is slowed",
    "spark.kubernetes.namespace": "executors are where their driver is",
    "spark.kubernetes.driver.pod.name": "executors end with the driver's pod",
    "spark.kubernetes.executor.podNamePrefix": "executors are named by their attempt",
    "spark.kubernetes.container.image": "executors have the driver's image (image: of the job)",
    "spark.kubernetes.executor.container.image": "executors have the driver's image",
    "spark.kubernetes.executor.podTemplateFile": "executors are pods of the run",
    "spark.kubernetes.executor.podTemplateContainerName": "executors are pods of the run",
    "spark.kubernetes.executor.disableConfigMap": "the driver may make pods, and nothing else",
    "spark.kubernetes.driver.service.deleteOnTermination": "the driver may make pods alone",
    "spark.kubernetes.driver.ownPersistentVolumeClaim": "the driver may make pods alone",
    "spark.kubernetes.driver.reusePersistentVolumeClaim": "the driver may make pods alone",
    "spark.kubernetes.allocation.pods.allocator": "the driver may make pods alone",
}


class SparkEngine:
    """Starts a file that says no more than `SparkSession.builder.getOrCreate()`."""

    name = "spark"
    program = SparkProgram

    def launch(self, plan: Plan, program: Any, code: str) -> Launch:
        """The starter `spark`.

        Raises InputError for properties that the machine decides, and where the machines are too
        small for a driver with executors beside it.
        """
        fixed = {**FIXED, **FIXED_PODS} if program.mode in MODES else FIXED
        for key in program.conf:
            if key in fixed:
                raise InputError(
                    f"job {plan.job_name}: {plan.job.engine}.conf sets {key}, which is not the "
                    f"job's to set: {fixed[key]}. Remove it"
                )
        if has_executors(plan):
            divide(plan)
        return Launch(
            engine=self.name,
            starter="spark",
            program={"file": program.file, "mode": program.mode, "conf": dict(program.conf)},
            args=plan.job.args,
            env=plan.job.env,
            code=code,
        )
