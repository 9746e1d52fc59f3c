from __future__ import annotations

import subprocess
import sys

import pytest

import piecework


def test_every_public_name_is_there() -> None:
    assert dir(piecework) == sorted(piecework.__all__)
    for name in piecework.__all__:
        assert getattr(piecework, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'piecework' has no attribute 'Jop'"):
        piecework.Jop  # type: ignore[attr-defined]  # noqa: B018


def test_importing_piecework_imports_nothing_else() -> None:
    code = (
        "import sys, piecework\n"
        "heavy = {'pydantic', 'yaml', 'piecework.spec', 'piecework.errors', 'importlib.metadata'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from piecework import Job\n"
        "assert 'pydantic' in sys.modules\n"
        "assert not {'airflow', 'jinja2', 'sqlalchemy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
