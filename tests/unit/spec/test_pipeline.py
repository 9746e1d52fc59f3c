from __future__ import annotations

import ast
import inspect
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from piecework import Job, Machine, Pipeline, Retries
from piecework.errors import InputError, SpecError
from piecework.spec import job as job_module
from piecework.spec import machine as machine_module
from piecework.spec import pipeline as pipeline_module


def test_a_pipeline_is_written_in_python_as_in_yaml() -> None:
    pipeline = Pipeline(
        pipeline="x",
        jobs={
            "a": Job(python="a.py", machine=Machine(cpu=2, memory="4Gi"), timeout="1h"),
            "b": Job(spark="b.py", after=["a"], retries=Retries(error=1)),
        },
    )
    a = pipeline.job("a")
    assert a.python is not None
    assert (a.python.run, str(a.machine.memory), a.timeout) == ("a.py", "4Gi", timedelta(hours=1))


def test_an_error_in_python_names_the_line_of_the_call_and_all_that_is_wrong() -> None:
    with pytest.raises(SpecError) as raised:
        Machine(cpu="two", memory="4GB")
    line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
    assert [(p.file, p.line, p.field) for p in raised.value.problems] == [
        (__file__, line, "cpu"),
        (__file__, line, "memory"),
    ]
    assert raised.value.problems[0].column > 1
    assert isinstance(raised.value.__cause__, ValidationError)


def test_what_is_wrong_between_jobs_is_told_in_python_too() -> None:
    with pytest.raises(SpecError, match=r"did you mean clean\?"):
        Pipeline(pipeline="x", jobs={"clean": Job(python="a.py"), "b": {"after": ["claen"]}})


def test_a_model_passes_through_plain_data_unchanged() -> None:
    pipeline = Pipeline(pipeline="x", jobs={"a": Job(python="a.py", machine=Machine(cpu=10))})
    assert Pipeline.model_validate(pipeline.model_dump()) == pipeline
    assert Pipeline.model_validate(pipeline.model_dump(mode="json")) == pipeline
    assert Pipeline.model_validate_json(pipeline.model_dump_json()) == pipeline


@pytest.mark.parametrize("module", [job_module, machine_module, pipeline_module])
def test_the_signatures_for_type_checkers_name_every_field(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    signatures = {
        outer.name: [argument.arg for argument in inner.args.kwonlyargs]
        for outer in ast.walk(tree)
        if isinstance(outer, ast.ClassDef)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__"
    }
    assert signatures
    for name, arguments in signatures.items():
        assert arguments == list(getattr(module, name).model_fields)


def test_a_job_keeps_what_it_says_itself() -> None:
    pipeline = Pipeline(
        pipeline="x",
        priority=5,
        timeout="2h",
        on_deadline="cancel",
        retries={"infrastructure": 7},
        jobs={
            "a": Job(python="a.py", priority=0, retries={"error": 1}),
            "b": Job(python="a.py", timeout="1h"),
        },
    )
    a, b = pipeline.job("a"), pipeline.job("b")
    assert (a.priority, b.priority) == (0, 5)
    assert (a.timeout, b.timeout) == (timedelta(hours=2), timedelta(hours=1))
    assert (a.retries.error, a.retries.infrastructure) == (1, 7)
    assert b.on_deadline == "cancel"


def test_a_job_that_does_not_exist_is_refused() -> None:
    pipeline = Pipeline(pipeline="x", jobs={"clean": Job(python="a.py")})
    with pytest.raises(InputError, match=r"x has no job 'claen'; did you mean clean\?"):
        pipeline.job("claen")


PARAMS = Pipeline(
    pipeline="x",
    jobs={"a": Job(python="a.py")},
    params={
        "year": 2013,
        "carrier": {"default": "UA", "enum": ["UA", "DL"], "description": "Whose flights"},
        "limit": {"type": "number"},
        "dry": False,
    },
)


def test_parameters_have_defaults_or_are_needed() -> None:
    assert PARAMS.defaults == {"year": 2013, "carrier": "UA", "dry": False}
    assert PARAMS.fill_params({"limit": "1.5", "year": "2014", "dry": "true"}) == {
        "year": 2014,
        "carrier": "UA",
        "limit": 1.5,
        "dry": True,
    }


def test_wrong_parameters_are_all_told() -> None:
    with pytest.raises(SpecError) as raised:
        PARAMS.fill_params({"yaer": 1, "carrier": "AA", "dry": "perhaps"})
    assert [(p.field, p.message) for p in raised.value.problems] == [
        ("params.carrier", "found 'AA'; one of 'UA', 'DL' is right"),
        ("params.dry", "found the text 'perhaps'; this parameter is of the type boolean"),
        ("params.limit", "has no default, and no value was given"),
        ("params.yaer", "is no parameter of x; did you mean year?"),
    ]


def test_a_start_is_a_day() -> None:
    jobs = {"a": Job(python="a.py")}
    assert Pipeline(pipeline="x", jobs=jobs, start="2024-01-31").start == date(2024, 1, 31)
    for wrong in (20240131, "yesterday", "2024-01-31T10:00:00"):
        with pytest.raises(SpecError, match="like 2024-01-31"):
            Pipeline(pipeline="x", jobs=jobs, start=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", [None, "None", "none"])
def test_no_schedule_is_on_request(schedule: str | None) -> None:
    assert (
        Pipeline(pipeline="x", jobs={"a": Job(python="a.py")}, schedule=schedule).schedule is None
    )
