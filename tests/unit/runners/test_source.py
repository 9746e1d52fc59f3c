"""A program that is none is told before a machine is bought for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from piecework.errors import InputError
from piecework.runners.source import check_source
from tests.unit.engines.plans import make_plan


@pytest.mark.parametrize("engine", ["python", "spark", "dask"])
def test_a_file_that_is_missing_is_named(tmp_path: Path, engine: str) -> None:
    with pytest.raises(InputError, match=r"job clean: its program a\.py cannot be read in .*No su"):
        check_source(make_plan(**{engine: "a.py"}), tmp_path)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (b"x = 1\nif x\n    pass\n", r"a\.py, line 2: expected ':'"),
        (b"print('\xff')\n", r"a\.py, line 1: .*utf-8"),
        (b"x = 1\0\n", "null bytes"),
        (b"(" * 500, "too many nested"),
    ],
)
def test_what_does_not_compile_is_told_with_its_line(
    tmp_path: Path, source: bytes, told: str
) -> None:
    (tmp_path / "a.py").write_bytes(source)
    with pytest.raises(InputError, match=told) as raised:
        check_source(make_plan(spark="a.py"), tmp_path)
    assert "no machine was bought" in str(raised.value)


def test_what_runs_is_let_through_with_its_warnings(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import nothing_that_is_here\nx = '\\d'\n")
    check_source(make_plan(python="a.py"), tmp_path)


def test_a_program_for_another_image_may_be_of_another_python(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("not python of today\n")
    check_source(make_plan(python="a.py", image="registry.example.com/python:4"), tmp_path)


def test_modules_and_containers_have_no_file_to_look_at(tmp_path: Path) -> None:
    check_source(make_plan(python="package.module"), tmp_path)
    check_source(make_plan(container={"image": "a"}), tmp_path)
