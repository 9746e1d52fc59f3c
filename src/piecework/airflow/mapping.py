"""Mapped tasks: what `partial(...).expand(...)` makes of an operator of piecework.

In: the arguments of all, and what they are mapped over. Out: Airflow's mapped operator, whose tasks
start in the triggerer where unmapped ones would. Airflow 3.3 gives all of them the same arguments
for their trigger, so each trigger takes its own part by its map index: of what was read from the
DAG file, which lies beside the task in the serialized DAG, or of another task's result. Each part
is made by a real operator, when the DAG file is read, so that a wrong one is an import error.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions._internal.mixins import ResolveMixin
from airflow.sdk.definitions.mappedoperator import MappedOperator, OperatorPartial
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.triggers.base import StartTriggerArgs

from piecework.airflow.client import AirflowClient
from piecework.airflow.trigger import JobTrigger
from piecework.errors import Problem, SpecError

#: More tries than the user asked for, where a worker may get lost: losing one costs a try.
LOST_WORKERS = 3
#: What Airflow itself reads of an operator, for all of its mapped tasks at once.
_OF_AIRFLOW = frozenset(inspect.signature(BaseOperator.__init__).parameters)
#: What a trigger can put into a job that is there already; by field, what stands in for it.
_STAND_IN: Mapping[str, Any] = {"args": [], "env": {}}


class JobPartial(OperatorPartial):
    """What `partial` leaves of an operator, until it is expanded."""

    @classmethod
    def of(cls, partial: OperatorPartial, retries: int | Mapping[str, int] | None) -> JobPartial:
        """Airflow's own, with the limits of jobs beside those that Airflow knows of tasks."""
        partial._expand_called = True  # else it complains that it is not mapped
        kwargs = dict(partial.kwargs)
        timeout = kwargs.get("execution_timeout")
        mapped = {
            "retries": kwargs.get("retries") if retries is None else retries,
            "timeout": timeout and timeout.total_seconds(),
        }
        return cls(
            operator_class=partial.operator_class,
            kwargs={**kwargs, "execution_timeout": None, "mapped": mapped},
            params=partial.params,
        )

    def expand(self, **mapped_kwargs: Any) -> MappedOperator:
        """As Airflow's. Raises what the operator does where a part of the mapping is wrong."""
        return self._settle(super().expand(**mapped_kwargs), mapped_kwargs)

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> MappedOperator:
        """As Airflow's. Raises what the operator does where a part of the mapping is wrong."""
        return self._settle(super().expand_kwargs(kwargs, strict=strict), kwargs)

    def _settle(self, task: MappedOperator, mapped: Any) -> MappedOperator:
        """Says what the scheduler wants to know of all mapped tasks, and where they start."""
        parts, source = list(_make_parts(task)), None
        if not parts:
            source = _find_source(mapped)
            stands_in = {source["field"]: _STAND_IN[source["field"]]} if source else {}
            parts = [task.unmap(stands_in)] if source else []
        in_triggerer = (
            bool(parts)
            and not _own_names(mapped) & _OF_AIRFLOW
            and all(part.start_from_trigger for part in parts)
        )
        if in_triggerer:
            _start_in_triggerer(task, parts, source)
        task.retries = max(
            (_retries(part, in_triggerer) for part in parts), default=self._retries_unseen()
        )
        weight = self.kwargs.get("priority_weight") or self.kwargs.get("priority") or 0
        task.priority_weight = max((part.priority_weight for part in parts), default=weight)
        return task

    def _retries_unseen(self) -> int:
        """Airflow's number for jobs that nobody has seen yet, and that a worker will."""
        given = self.kwargs["mapped"]["retries"]
        errors = given.get("error", 0) if isinstance(given, Mapping) else given or 0
        return int(errors) + LOST_WORKERS


class MappedJobTrigger(JobTrigger):
    """Follows one mapped task's run.

    `source`: the task over whose result the tasks are mapped, and the field of the job that each
    gets its part of; None where the DAG file says what each gets.
    """

    def __init__(self, *, source: Mapping[str, str] | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.taken = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class's path and the arguments that make an equal trigger."""
        path, kwargs = super().serialize()
        return path, kwargs | {"source": self.source}

    def read_params(self, context: Any) -> dict[str, Any]:
        """Takes its part of the mapping; returns the parameters. Raises SpecError."""
        if self.source is None:
            self._take_part()
        else:
            self._take_result(self.source["task_id"], self.source["field"])
        self.taken = True
        return super().read_params(context)

    def fill_templates(self) -> None:
        """As of any job; but Airflow tells nothing of a task that the DAG has no more."""
        super().fill_templates()
        if not self.taken:
            wrong = f"its DAG has no task {self.task_id!r} any more, so its part is not known"
            raise SpecError([Problem("(task)", 0, 0, "", wrong)])

    def _take_part(self) -> None:
        parts = json.loads((self.task.partial_kwargs.get("mapped") or {}).get("parts") or "[]")
        for name, value in _pick(parts, self.task_instance, "its DAG").items():
            setattr(self, name, value)

    def _take_result(self, task_id: str, field: str) -> None:
        ti: Any = self.task_instance
        client = AirflowClient.from_settings(self.load_settings())
        found = client.result(ti.dag_id, ti.run_id, task_id, "return_value")
        part = _pick(found, ti, f"the result of {task_id!r}")
        kind = Mapping if field == "env" else Sequence
        if not isinstance(part, kind) or isinstance(part, str):
            wrong = f"found {part!r} in the result of {task_id!r}; {_RIGHT[field]} is right here"
            raise SpecError([Problem("(task)", 0, 0, field, wrong)])
        setattr(self, field, part)
        # What another task says is no template.
        fields: Sequence[str] = vars(self)["template_fields"]
        self.template_fields = tuple(name for name in fields if name != field)


_RIGHT = {"args": "a list of arguments", "env": "an object of variables"}


def _pick(parts: Any, ti: Any, whose: str) -> Any:
    """The part of this map index. Raises SpecError where there is none."""
    if isinstance(parts, Sequence) and not isinstance(parts, str) and ti.map_index < len(parts):
        return parts[ti.map_index]
    wrong = f"has no part with the number {ti.map_index}; it has changed since the task was mapped"
    raise SpecError([Problem("(task)", 0, 0, "", f"{whose} {wrong}")])


def _own_names(mapped: Any) -> set[str]:
    """The arguments that differ from task to task, as far as the DAG file says."""
    if isinstance(mapped, Mapping):
        return set(mapped)
    each = mapped if isinstance(mapped, Sequence) else ()
    return {name for one in each if isinstance(one, Mapping) for name in one}


def _make_parts(task: MappedOperator) -> Iterator[Any]:
    """An operator for each map index; none where another task will say what there is."""
    value: Any = task.expand_input.value
    if isinstance(value, Mapping):
        known = not any(isinstance(each, ResolveMixin) for each in value.values())
        count = math.prod(len(each) for each in value.values()) if known else 0
    else:
        literal = isinstance(value, Sequence) and all(isinstance(one, Mapping) for one in value)
        count = len(value) if literal else 0
    for index in range(count):
        # The number of a task is all that Airflow asks for here.
        arguments, _ = task.expand_input.resolve({"ti": SimpleNamespace(map_index=index)})
        try:
            yield task.unmap(arguments)
        except Exception as error:
            error.add_note(
                f"This is number {index} of what the task {task.task_id!r} is mapped to."
            )
            raise


def _retries(part: Any, in_triggerer: bool) -> int:
    """A part's number of Airflow's retries, if all parts start where this one would not."""
    margin = LOST_WORKERS if part.start_from_trigger and not in_triggerer else 0
    return int(part.retries) + margin


def _find_source(mapped: Any) -> dict[str, str] | None:
    """The task whose whole result a trigger can take one part of; None where a worker has to."""
    if not isinstance(mapped, Mapping) or len(mapped) != 1:
        return None
    ((field, value),) = mapped.items()
    if field not in _STAND_IN or not isinstance(value, PlainXComArg):
        return None
    if isinstance(value.operator, MappedOperator) or value.operator.get_closest_mapped_task_group():
        return None
    return {"field": field, "task_id": value.operator.task_id}


def _start_in_triggerer(
    task: MappedOperator, parts: Sequence[Any], source: Mapping[str, str] | None
) -> None:
    """Lets Airflow start the tasks as triggers, without workers."""
    common = parts[0].start_trigger_args
    orders = [part.start_trigger_args.trigger_kwargs for part in parts]
    own = [
        {name: value for name, value in order.items() if value != common.trigger_kwargs[name]}
        for order in orders
    ]
    # As one text: a triggerer reads the serialized DAG anew for each of its tasks.
    task.partial_kwargs["mapped"]["parts"] = json.dumps(own, sort_keys=True)
    task.start_from_trigger = True
    task.start_trigger_args = StartTriggerArgs(
        trigger_cls=f"{MappedJobTrigger.__module__}.{MappedJobTrigger.__qualname__}",
        trigger_kwargs=common.trigger_kwargs | {"source": source},
        next_method=common.next_method,
    )
