from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def docs() -> Any:
    spec = importlib.util.spec_from_file_location("docs", ROOT / "tools" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_as_make_docs_writes_them(docs: Any) -> None:
    assert docs.stale() == [], "run make docs"


def test_every_model_of_a_pipeline_file_has_its_section(docs: Any) -> None:
    models = set(docs.json_schema(installed=False)["$defs"]) - {"SingleJob"}
    assert models == set(docs.MODELS)


def test_every_setting_says_what_it_means(docs: Any) -> None:
    rows = re.findall(r"^\| `\w+` \|.*\| (.+) \|$", docs.pages()["settings.md"], re.MULTILINE)
    assert len(rows) >= len(docs.fields(docs.config.Settings)) - 1


def test_the_yaml_in_the_reference_is_right(docs: Any) -> None:
    from piecework.spec.load import load_text

    (example,) = re.findall(r"```yaml\n(.*?)```", docs.pages()["spec.md"], re.DOTALL)
    assert list(load_text(example, "spec.md").jobs) == ["clean", "delays"]


def test_the_python_in_the_reference_is_right(docs: Any) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", docs.pages()["spec.md"], re.DOTALL)
    exec(compile(example, "spec.md", "exec"), {})
