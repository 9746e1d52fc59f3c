"""`@task.piecework(...)`: a function that runs on a machine of its own.

In: a function in a DAG file, and its arguments (from other tasks, too). Out: a Python job whose
program is the function's source with its arguments; what it returns is the task's XCom. As with
Airflow's own decorators for other interpreters, the function must import what it uses itself.
"""

from __future__ import annotations

import base64
import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory

from piecework import config
from piecework.airflow.configuration import PlatformFolder, write_private
from piecework.airflow.operator import JobOperator

_PLACEHOLDER = "function.py"
_PROGRAM = '''\
"""A function of a DAG file, called once with its arguments."""
{source}

if __name__ == "__main__":
    import base64
    import json
    import os
    import pickle

    args, kwargs = pickle.loads(base64.b64decode({arguments!r}))
    result = {name}(*args, **kwargs)
    try:
        text = json.dumps(result)
    except (TypeError, ValueError) as error:
        raise SystemExit(
            "the function returned " + type(result).__name__ + ", which JSON cannot hold ("
            + str(error) + "); return numbers, texts, lists and dicts, or write a file"
        ) from None
    with open(os.environ["PIECEWORK_RESULT"], "w") as stream:
        stream.write(text)
'''


class PieceworkDecoratedOperator(DecoratedOperator, JobOperator):
    """A decorated function as a job. Only a worker knows its arguments, so it starts there."""

    custom_operator_name = "@task.piecework"
    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, "args", "env")
    needs_worker = True

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Sequence[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            python=_PLACEHOLDER,
            **kwargs,
        )

    def execute(self, context: Any) -> Any:
        """In a worker: writes the program with its arguments, then hands over as any job."""
        source = self.get_python_source()
        program = make_program(source, self.python_callable.__name__, self.op_args, self.op_kwargs)
        digest = hashlib.blake2b(program.encode(), digest_size=12).hexdigest()
        # A folder for each: on a cluster, all that lies in a program's folder is brought along.
        folder = PlatformFolder(config.load().home).root / "functions" / digest
        folder.mkdir(parents=True, exist_ok=True)
        write_private(folder / _PLACEHOLDER, program)
        # Modules beside the DAG file stay importable on this host, as for Airflow's own tasks.
        beside = Path(self.dag.fileloc).parent if self.has_dag() else Path.cwd()
        self.env = {"PYTHONPATH": str(beside), **dict(self.env)}
        self.program, self.code = {"run": _PLACEHOLDER}, str(folder)
        return JobOperator.execute(self, context)


def make_program(source: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The text of a program that calls a function and writes what it returns.

    Raises ValueError where the arguments cannot be handed to another process.
    """
    try:
        packed = pickle.dumps((list(args), dict(kwargs)))
    except Exception as error:  # pickling runs the arguments' own code
        raise ValueError(
            f"the arguments of {name} cannot be handed to another machine: {error}"
        ) from error
    return _PROGRAM.format(source=source, arguments=base64.b64encode(packed).decode(), name=name)


def piecework_task(
    python_callable: Callable[..., Any] | None = None, **kwargs: Any
) -> TaskDecorator:
    """Makes a task of a function: `@task.piecework(machine={"cpu": 4}, retries=1)`."""
    return task_decorator_factory(
        python_callable=python_callable,
        decorated_operator_class=PieceworkDecoratedOperator,
        **kwargs,
    )
