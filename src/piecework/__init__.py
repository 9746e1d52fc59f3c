"""Pay for the piece of work, not for the cluster.

The public names, each imported when it is first used, so that `import piecework` costs nothing:

    from piecework import Job, Machine, Pipeline, Retries

    Pipeline(
        pipeline="flights",
        jobs={"clean": Job(python="jobs/clean.py", machine=Machine(cpu=2, memory="4Gi"))},
    )

A model that is called with something wrong raises `SpecError`, which names the line of the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piecework.errors import PieceworkError, SpecError
    from piecework.spec.job import Job, Retries
    from piecework.spec.load import load_pipeline
    from piecework.spec.machine import Machine
    from piecework.spec.pipeline import Pipeline

    __version__: str

__all__ = [
    "Job",
    "Machine",
    "PieceworkError",
    "Pipeline",
    "Retries",
    "SpecError",
    "__version__",
    "load_pipeline",
]

_MODULES = {
    "Job": "piecework.spec.job",
    "Machine": "piecework.spec.machine",
    "PieceworkError": "piecework.errors",
    "Pipeline": "piecework.spec.pipeline",
    "Retries": "piecework.spec.job",
    "SpecError": "piecework.errors",
    "load_pipeline": "piecework.spec.load",
}


if not TYPE_CHECKING:  # a type checker knows the names from above, and so tells misspelt ones

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version("piecework")
        elif name in _MODULES:
            from importlib import import_module

            value = getattr(import_module(_MODULES[name]), name)
        else:
            raise AttributeError(f"module 'piecework' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
