from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from testbed import images, packages

_IMAGES = Path(__file__).parents[3] / "images"


def test_every_shipped_image_is_one_that_can_be_built_and_stands_on_another() -> None:
    assert {path.name for path in _IMAGES.iterdir()} == set(images.SHIPPED)
    assert set(images.SHIPPED.values()) <= {images.BASE, *images.SHIPPED}


@pytest.mark.parametrize("name", images.SHIPPED)
def test_a_shipped_image_takes_any_base_and_runs_as_nobody_special(name: str) -> None:
    lines = (_IMAGES / name / "Dockerfile").read_text().splitlines()
    instructions = [line for line in lines if re.match(r"[A-Z]+ ", line)]
    assert instructions[0].startswith("ARG BASE=")
    assert instructions[1] == "FROM ${BASE}"
    users = [line for line in instructions if line.startswith("USER ")]
    assert users[-1] == "USER 65532:65532"


@pytest.mark.parametrize("name", images.SHIPPED)
def test_all_that_a_shipped_image_asks_for_is_pinned(name: str) -> None:
    lock = packages.lock_of(_IMAGES / name).read_text()
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    asked = (_IMAGES / name / packages.REQUIREMENTS).read_text().splitlines()
    lines = [line for line in asked if line and not line.startswith("#")]
    assert lines
    loose = [line for line in lines if "==" not in line and not line.startswith("../..")]
    assert {re.split(r"[\[<]", line)[0].replace(".", "-") for line in loose} <= pinned


def test_packages_are_installed_anew_when_others_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "python"
    shutil.copytree(_IMAGES / "python", folder)
    before = packages.fingerprint(folder)
    assert packages.fingerprint(_IMAGES / "python") == before
    (folder / packages.REQUIREMENTS).write_text("pandas\n")
    assert packages.fingerprint(folder) != before
