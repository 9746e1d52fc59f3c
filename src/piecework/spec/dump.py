"""A Pipeline as YAML: what `load_text` reads back into an equal one."""

from __future__ import annotations

import re
from typing import Any

import yaml

from piecework.spec.pipeline import Pipeline

_UNICODE_LINE_END = re.compile("[\x85\u2028\u2029]")


class _Dumper(yaml.SafeDumper):
    """Quotes what our reader takes for a number though YAML 1.1 takes it for a text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Values are written out each time: people find aliases hard to read."""
        del data
        return True


def _write_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Line ends of Unicode are escaped: PyYAML would write them as they are, and fold them."""
    style = '"' if _UNICODE_LINE_END.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)
# PyYAML registers and looks these up by their first character.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"0o[0-7]+$"), ["0"])


def dump_yaml(pipeline: Pipeline) -> str:
    """What was set, and nothing else, in the order of the model's fields."""
    data = pipeline.model_dump(mode="json", exclude_unset=True)
    for job in data["jobs"].values():
        custom = job.pop("custom", None)
        if custom is not None:
            job[custom["engine"]] = custom.get("program")
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
