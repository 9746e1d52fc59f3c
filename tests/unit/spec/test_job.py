from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from piecework.errors import SpecError
from piecework.spec import custom
from piecework.spec.dump import dump_yaml
from piecework.spec.job import CustomProgram, Job
from piecework.spec.load import load_text
from piecework.spec.schema import json_schema
from piecework.spec.templates import render_job

ENGINES = """
from pydantic import BaseModel, ConfigDict, Field


class Query(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sql: str
    threads: int = Field(1, ge=1)


class DuckEngine:
    name = "duck"
    program = Query


class FreeEngine:
    name = "free"
    program = None


free = FreeEngine()
"""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package that brings three engines, the last of which is broken."""
    (tmp_path / "foreign_engines.py").write_text(ENGINES)
    metadata = tmp_path / "foreign_engines-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-engines\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[piecework.engines]\nduck = foreign_engines:DuckEngine\nfree = foreign_engines:free\n"
        "broken = foreign_engines:nothing\npython = foreign_engines:DuckEngine\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    custom.registered.cache_clear()
    yield
    custom.registered.cache_clear()
    sys.modules.pop("foreign_engines", None)


def test_an_engine_of_another_package_is_written_by_its_name(engines: None) -> None:
    pipeline = load_text("job: a\nduck: {sql: select 1}\n", "p.yaml")
    job = pipeline.jobs["a"]
    assert (job.engine, job.program) == ("duck", {"sql": "select 1"})
    assert load_text(dump_yaml(pipeline), "p.yaml") == pipeline
    assert Job.model_validate(job.model_dump(mode="json")) == job


def test_the_program_of_another_package_s_engine_is_checked_at_its_place(engines: None) -> None:
    with pytest.raises(SpecError) as raised:
        load_text("job: a\nduck:\n  sqll: x\n  threads: 0\n", "p.yaml")
    assert [(p.line, p.field, p.message) for p in raised.value.problems] == [
        (2, "duck.sql", "is missing"),
        (3, "duck.sqll", "unknown field; did you mean sql?"),
        (4, "duck.threads", "found 0; the least is 1"),
    ]


def test_an_engine_without_a_model_takes_anything(engines: None) -> None:
    job = load_text("job: a\nfree: [1, {b: c}]\n", "p.yaml").jobs["a"]
    assert (job.engine, job.program) == ("free", [1, {"b": "c"}])


def test_templates_in_another_package_s_program_are_checked_and_rendered(engines: None) -> None:
    job = load_text("job: a\nduck: {sql: 'select {{ n }}'}\n", "p.yaml").jobs["a"]
    assert render_job(job, {"n": 3}).program == {"sql": "select 3"}
    with pytest.raises(SpecError, match=r"p.yaml:2:1: duck: .* does not parse as a template"):
        load_text("job: a\nduck: {sql: '{{ n'}\n", "p.yaml")


def test_an_engine_that_cannot_be_loaded_is_told(engines: None) -> None:
    with pytest.raises(SpecError, match="the engine broken is installed, but cannot be loaded"):
        load_text("job: a\nbroken: x\n", "p.yaml")


def test_a_misspelt_engine_of_another_package_is_recognized(engines: None) -> None:
    with pytest.raises(SpecError, match=r"ducc: unknown field; did you mean duck\?"):
        load_text("job: a\nducc: x\n", "p.yaml")


def test_nobody_replaces_a_built_in_engine(engines: None) -> None:
    assert load_text("job: a\npython: a.py\n", "p.yaml").jobs["a"].engine == "python"


def test_two_engines_are_too_many_whoever_brings_them(engines: None) -> None:
    with pytest.raises(SpecError, match="a job names exactly one engine"):
        load_text("job: a\npython: a.py\nfree: x\n", "p.yaml")


def test_the_schema_knows_installed_engines(engines: None) -> None:
    job = json_schema()["$defs"]["Job"]
    assert job["properties"]["duck"]["properties"]["sql"]["type"] == "string"
    assert "duck" not in json_schema(installed=False)["$defs"]["Job"]["properties"]


def test_in_python_another_package_s_engine_is_named_either_way(engines: None) -> None:
    written = Job(custom=CustomProgram(engine="duck", program={"sql": "x"}))
    assert written.engine == "duck"
    assert Job(duck={"sql": "x"}) == written


@pytest.mark.parametrize(
    ("job", "file"),
    [
        (Job(python="jobs/a.py"), "jobs/a.py"),
        (Job(python="package.module"), None),
        (Job(python="package.module:function"), None),
        (Job(spark="a.py"), "a.py"),
        (Job(dask="a.py"), "a.py"),
        (Job(container={"image": "i"}), None),
    ],
)
def test_a_program_is_a_file_or_not(job: Job, file: str | None) -> None:
    assert job.file == file


def test_a_number_of_retries_is_that_of_errors() -> None:
    assert Job(python="a.py", retries=3).retries.error == 3
