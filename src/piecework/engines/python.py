"""The engine `python`: a file, a module or a function."""

from __future__ import annotations

from typing import Any

from piecework.engines.engine import Launch
from piecework.plan.plan import Plan
from piecework.spec.job import PythonProgram


class PythonEngine:
    """Starts `jobs/clean.py`, `package.module` (as `-m` does) or `package.module:function`."""

    name = "python"
    program = PythonProgram

    def launch(self, plan: Plan, program: Any, code: str) -> Launch:
        """The starter `python` with the kind of program that the text names."""
        return Launch(
            engine=self.name,
            starter="python",
            program={"kind": kind_of(program.run), "run": program.run},
            args=plan.job.args,
            env=plan.job.env,
            code=code,
        )


def kind_of(run: str) -> str:
    """What the user named: "file", "module" or "function"."""
    if run.endswith(".py") or "/" in run:
        return "file"
    return "function" if ":" in run else "module"
