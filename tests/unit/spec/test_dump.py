from __future__ import annotations

import string
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from piecework.spec.dump import dump_yaml
from piecework.spec.load import load_text
from piecework.spec.pipeline import Pipeline

NAME = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0{"), max_size=12)
LOOKALIKES = """yes NO 1 1.0 1e5 0o17 0x1F 1_000 1:30 ~ << 2020-01-01 .nan null - ' " = *a &a"""
TRICKY = st.sampled_from(["", " ", "\n", "a\nb", "- a", "a: b", "# c", *LOOKALIKES.split()])
ANY_TEXT = TEXT | TRICKY
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # More digits than people write are refused when they are read.
    .filter(lambda number: 1e-5 < abs(number) < 1e15)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
PROGRAM = st.sampled_from(
    [
        {"python": "jobs/a.py"},
        {"python": {"run": "package.module:function"}},
        {"spark": {"file": "a.py", "mode": "standalone", "conf": {"spark.x": "1e5"}}},
        {"dask": {"file": "a.py", "threads_per_worker": 2}},
        {"container": {"image": "registry.example.com/score:3", "command": ["python", "yes"]}},
    ]
)
MACHINE = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.integers(1, 10**9).map(lambda milli: f"{milli}m"),
        "memory": st.integers(2**20, 2**60),
        "gpu": st.integers(0, 64),
        "spot": st.sampled_from(["never", "prefer", "only"]),
        "burstable": st.booleans(),
        "type": st.just("m7a.large"),
    },
)
DURATION = st.timedeltas(timedelta(microseconds=1), timedelta(days=366))
JOB = st.builds(
    lambda program, rest: program | rest,
    PROGRAM,
    st.fixed_dictionaries(
        {},
        optional={
            "args": st.lists(ANY_TEXT, max_size=3),
            "env": st.dictionaries(NAME.map(lambda name: f"V{name}"), ANY_TEXT, max_size=2),
            "machine": MACHINE,
            "priority": st.integers(-1000, 1000),
            "timeout": DURATION,
            "deadline": DURATION,
            "retries": st.integers(0, 100),
            "description": ANY_TEXT,
            "team": NAME,
        },
    ),
)
PIPELINE = st.fixed_dictionaries(
    {"pipeline": NAME, "jobs": st.dictionaries(NAME, JOB, min_size=1, max_size=3)},
    optional={
        "schedule": st.sampled_from(["@daily", "0 6 * * *", "*/5 * * * 1-5"]),
        "start": st.dates(date(1900, 1, 1)),
        "params": st.dictionaries(
            NAME.map(lambda name: f"p{name}"),
            JSON.map(lambda value: {"default": value}),
            max_size=2,
        ),
        "tags": st.lists(ANY_TEXT.filter(bool), max_size=2),
        "retries": st.integers(0, 100),
        "max_active_runs": st.integers(1, 1000),
    },
)


def in_order(data: dict[str, Any]) -> dict[str, Any]:
    """Each job after the one before it."""
    names = list(data["jobs"])
    for before, name in pairwise(names):
        data["jobs"][name]["after"] = [before]
    return data


@given(PIPELINE.map(in_order))
@settings(deadline=None, max_examples=150)
def test_what_is_written_is_read_back_equal(data: dict[str, Any]) -> None:
    pipeline = Pipeline.model_validate(data)
    text = dump_yaml(pipeline)
    again = load_text(text, "p.yaml")
    assert again == pipeline
    assert dump_yaml(again) == text


def test_only_what_was_set_is_written() -> None:
    pipeline = load_text("pipeline: p\njobs: {a: {python: a.py, timeout: 60m}}\n", "p.yaml")
    assert yaml.safe_load(dump_yaml(pipeline)) == {
        "pipeline": "p",
        "jobs": {"a": {"python": {"run": "a.py"}, "timeout": "1h"}},
    }


@pytest.mark.parametrize("text", ["1e5", "0o17", "yes", "1.5", "", "007"])
def test_texts_that_look_like_something_else_stay_texts(text: str) -> None:
    data = {"pipeline": "p", "jobs": {"a": {"python": "a.py", "args": [text]}}}
    pipeline = Pipeline.model_validate(data)
    assert load_text(dump_yaml(pipeline), "p.yaml").jobs["a"].args == (text,)
