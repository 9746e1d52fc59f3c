from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from piecework.errors import SpecError
from piecework.spec.load import load_text
from piecework.spec.schema import json_schema

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = json_schema(installed=False)
FLIGHTS = (Path(__file__).parent / "flights.yaml").read_text()
EXAMPLES = sorted((Path(__file__).parents[3] / "examples").rglob("*.yaml"))


def complaints(text: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    data = json.loads(json.dumps(yaml.safe_load(text), default=str))  # editors see days as texts
    return [error.message for error in validator.iter_errors(data)]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"].endswith("2020-12/schema")


ONE_JOB = "job: a\npython: a.py\nretries: 2\nschedule: '@daily'\nparams: {n: 1, x: {default: y}}\n"


@pytest.mark.parametrize("text", [FLIGHTS, ONE_JOB])
def test_what_the_loader_takes_the_schema_takes(text: str) -> None:
    load_text(text, "p.yaml")
    assert complaints(text) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_right(path: Path) -> None:
    text = path.read_text()
    load_text(text, str(path), path.parent)
    assert complaints(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "job: a\n",
        "job: a\npython: a.py\nspark: b.py\n",
        "job: a\npython: a.py\nmachin: {}\n",
        "job: a b\npython: a.py\n",
        "pipeline: p\njobs: {}\n",
        "pipeline: p\njobs: {a: {python: a.py, priority: 2000}}\n",
        "pipeline: p\njobs: {a: {python: a.py, retries: {errors: 1}}}\n",
        "pipeline: p\njobs: {a: {python: a.py, machine: {spot: maybe}}}\n",
    ],
)
def test_what_the_schema_refuses_the_loader_refuses(text: str) -> None:
    assert complaints(text) != []
    with pytest.raises(SpecError):
        load_text(text, "p.yaml")


def undescribed(schema: Any, path: str) -> list[str]:
    found = []
    for name, field in schema.get("properties", {}).items():
        if "description" not in field:
            found.append(f"{path}.{name}")
    return found


def test_every_field_is_described() -> None:
    found = [each for name, model in SCHEMA["$defs"].items() for each in undescribed(model, name)]
    assert found == []
    assert all("description" in model for model in SCHEMA["$defs"].values())
