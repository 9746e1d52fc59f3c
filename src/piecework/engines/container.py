"""The engine `container`: any image, started as it is."""

from __future__ import annotations

from typing import Any

from piecework.engines.engine import Launch
from piecework.plan.plan import Plan
from piecework.spec.job import ContainerProgram


class ContainerEngine:
    """Starts an image with podman or docker; on Kubernetes, as the pod's container."""

    name = "container"
    program = ContainerProgram

    def launch(self, plan: Plan, program: Any, code: str) -> Launch:
        """The starter `container`; `command` replaces its entrypoint, `args` its command."""
        command = None if program.command is None else list(program.command)
        return Launch(
            engine=self.name,
            starter="container",
            program={"image": program.image, "command": command},
            args=plan.job.args,
            env=plan.job.env,
            code=code,
        )
