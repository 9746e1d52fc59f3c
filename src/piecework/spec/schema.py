"""The JSON Schema of pipeline files, for editors and other programs; made from the models."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from piecework.spec import custom
from piecework.spec.job import ENGINES
from piecework.spec.pipeline import OF_PIPELINE, Pipeline

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(*, installed: bool = True) -> dict[str, Any]:
    """The schema of a file: a pipeline, or a single job.

    `installed` adds the engines of other packages that are installed here.
    """
    schema: dict[str, Any] = TypeAdapter(Pipeline).json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = schema.pop("$defs")
    job = definitions["Job"]
    del job["properties"]["custom"], definitions["CustomProgram"]
    engines = [*ENGINES, *(_add_engines(job, definitions) if installed else ())]
    one_engine = [{"required": [engine]} for engine in engines]
    single = {
        "title": "A single job",
        "description": "A file with one job: `job: NAME`, and the job's fields.",
        "type": "object",
        "additionalProperties": False,
        "required": ["job"],
        "oneOf": one_engine,
        "properties": {
            "job": {**schema["properties"]["pipeline"], "description": "The job's name."},
            **job["properties"],
            **{name: schema["properties"][name] for name in OF_PIPELINE},
        },
    }
    job["oneOf"] = one_engine
    definitions |= {"Pipeline": schema, "SingleJob": single}
    return {
        "$schema": DIALECT,
        "title": "piecework: a pipeline file",
        "description": "Jobs, the machines they need, their order and schedule.",
        "type": "object",
        # Not anyOf: so an editor tells what is wrong with the form that was begun, not with both.
        "if": {"required": ["job"], "not": {"required": ["pipeline"]}},
        "then": {"$ref": "#/$defs/SingleJob"},
        "else": {"$ref": "#/$defs/Pipeline"},
        "$defs": dict(sorted(definitions.items())),
    }


def _add_engines(job: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """Adds the installed engines of other packages to the job; returns their names."""
    added = []
    for name in sorted(custom.registered()):
        if name in job["properties"]:
            continue
        try:
            model = custom.program_model(name)
        except Exception:  # noqa: S112 - a package that is broken must not break the schema
            continue
        program: dict[str, Any] = {}
        if model is not None:
            template = f"#/$defs/{name}-{{model}}"
            program = model.model_json_schema(ref_template=template)
            inner = program.pop("$defs", {})
            definitions |= {f"{name}-{title}": schema for title, schema in inner.items()}
        job["properties"][name] = {"description": f"Engine: {name}.", **program}
        added.append(name)
    return added
