from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from piecework.cli.options import Moment, read_params
from piecework.errors import InputError
from piecework.spec.load import load_text
from piecework.spec.pipeline import Pipeline

FILE = """
pipeline: p
params: {year: 2013, name: x, ratio: 0.5, all: false, days: [1]}
jobs: {a: {python: a.py}}
"""


@pytest.fixture
def pipeline() -> Pipeline:
    return load_text(FILE, "p.yaml")


def test_parameters_become_what_their_defaults_are(pipeline: Pipeline) -> None:
    given = ["year=2014", "name=2014", "ratio=1", "all=true", "days=[1, 2]"]
    assert read_params(given, pipeline) == {
        "year": 2014,
        "name": "2014",
        "ratio": 1.0,
        "all": True,
        "days": [1, 2],
    }


def test_a_value_may_hold_an_equals_sign(pipeline: Pipeline) -> None:
    assert read_params(["name=a=b"], pipeline) == {"name": "a=b"}


def test_defaults_are_left_to_the_pipeline(pipeline: Pipeline) -> None:
    assert read_params([], pipeline) == {}


@pytest.mark.parametrize(
    ("given", "message"), [("yaer=1", "did you mean year"), ("year", "NAME=VALUE"), ("=1", "NAME=")]
)
def test_a_wrong_parameter_says_what_would_be_right(
    pipeline: Pipeline, given: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_params([given], pipeline)


def test_a_time_is_an_age_or_a_date() -> None:
    now = datetime.now(UTC)
    age = Moment().convert("30d", None, None)
    assert abs(now - timedelta(days=30) - age) < timedelta(minutes=1)
    assert Moment().convert("2026-11-23", None, None) == datetime(2026, 11, 23, tzinfo=UTC)
    zoned = Moment().convert("2026-11-23T08:00:00+02:00", None, None)
    assert zoned == datetime(2026, 11, 23, 6, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "soon", "-1d", "99999999d", "2026-13-01"])
def test_any_other_text_is_refused_as_a_time(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Moment().convert(text, None, None)
