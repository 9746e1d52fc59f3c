"""From a job to what the entrypoint is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from piecework.engines.engine import Engine, Launch, engine_names, find_engine, launch
from piecework.errors import ConfigError, InputError
from piecework.spec.job import ENGINES
from piecework.units import Memory
from tests.unit.engines.plans import make_plan

CODE = Path("/code")


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        ("clean.py", "file"),
        ("jobs/clean.py", "file"),
        ("package", "module"),
        ("package.module", "module"),
        ("package.module:function", "function"),
        ("package:Class.method", "function"),
    ],
)
def test_the_text_of_a_python_program_says_what_it_is(run: str, kind: str) -> None:
    found = launch(make_plan(python=run), CODE)
    assert (found.starter, found.program) == ("python", {"kind": kind, "run": run})


def test_a_launch_carries_the_arguments_the_environment_and_the_code() -> None:
    plan = make_plan(python="a.py", args=["1", "two words"], env={"MODE": "fast"})
    found = launch(plan, CODE)
    assert (found.args, found.env, found.code) == (("1", "two words"), {"MODE": "fast"}, "/code")


@pytest.mark.parametrize(
    "job",
    [
        {"python": "package:function", "args": ["é\n"]},
        {"spark": {"file": "a.py", "mode": "standalone", "conf": {"spark.x": "1"}}},
        {"dask": {"file": "a.py", "threads_per_worker": 2}},
        {"container": {"image": "score:3", "command": ["python", "score.py"]}},
        {"container": {"image": "score:3"}},
        {"h2o": {"file": "a.py", "conf": {"spark.ext.h2o.log.level": "INFO"}}},
    ],
)
def test_a_launch_survives_json(job: dict[str, object]) -> None:
    found = launch(make_plan(**job), CODE)
    assert Launch.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_spark_refuses_properties_that_the_machine_decides() -> None:
    plan = make_plan(spark={"file": "a.py", "conf": {"spark.master": "local[64]"}})
    with pytest.raises(InputError, match=r"job clean: spark\.conf sets spark\.master.*Remove it"):
        launch(plan, CODE)


def test_where_executors_are_pods_their_size_and_place_are_the_machines_to_say() -> None:
    conf = {"spark.executor.memory": "64g"}
    job = {"file": "a.py", "mode": "kubernetes", "conf": conf}
    with pytest.raises(InputError, match=r"spark\.conf sets spark\.executor\.memory.*fill their"):
        launch(make_plan(spark=job), CODE)
    assert launch(make_plan(spark={**job, "mode": "standalone"}), CODE).program["conf"] == conf


def test_a_driver_with_executors_that_do_not_fit_is_refused_where_it_is_asked_for() -> None:
    plan = make_plan(spark={"file": "a.py", "mode": "kubernetes"})
    small = replace(plan, provider="karpenter", memory=Memory.parse("1Gi"))
    with pytest.raises(InputError, match="job clean: its machines have 1024 MiB for it"):
        launch(small, CODE)
    assert launch(replace(small, provider="local"), CODE).program["mode"] == "kubernetes"


def test_h2o_refuses_executors_that_come_and_go() -> None:
    plan = make_plan(h2o={"file": "a.py", "conf": {"spark.dynamicAllocation.enabled": "true"}})
    with pytest.raises(InputError, match=r"job clean: h2o\.conf sets spark\.dynamicAllocation"):
        launch(plan, CODE)
    plan = make_plan(h2o={"file": "a.py", "conf": {"spark.master": "local[64]"}})
    with pytest.raises(InputError, match=r"h2o\.conf sets spark\.master.*Remove it"):
        launch(plan, CODE)


def test_the_engines_of_the_spec_are_the_engines_there_are() -> None:
    assert engine_names()[: len(ENGINES)] == ENGINES
    for name in ENGINES:
        engine = find_engine(name)
        assert isinstance(engine, Engine)
        assert engine.name == name
        assert engine.program is not None


def test_an_unknown_engine_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"no engine 'h3o'.*python, container, spark, dask"):
        find_engine("h3o")
