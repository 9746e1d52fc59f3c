"""Published files: a copy that knows its origin, replaced only by another content."""

from __future__ import annotations

from pathlib import Path

import pytest

from piecework.airflow.configuration import PlatformFolder
from piecework.airflow.publication import (
    error_of_content,
    is_error_of,
    publish,
    published_content,
    read_publication,
    unpublish,
)
from piecework.config import load
from piecework.errors import SpecError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").touch()
    found = code / "some.yaml"
    found.write_text("job: hello\npython: a.py\n")
    return found


def test_a_published_file_keeps_its_text_and_the_folder_of_its_programs(
    home: Path, file: Path
) -> None:
    settings = load()
    assert publish(file, settings) == "hello"
    found = read_publication(PlatformFolder(home).published / "hello.yaml")
    assert found.text == file.read_bytes()
    assert (found.source, found.code) == (file, file.parent)
    assert found.content == published_content("hello", settings)


def test_publishing_again_changes_the_copy_only_with_the_content(home: Path, file: Path) -> None:
    settings = load()
    publish(file, settings)
    copy = PlatformFolder(home).published / "hello.yaml"
    before, content = copy.stat(), published_content("hello", settings)
    publish(file, settings)
    assert copy.stat().st_ino == before.st_ino
    file.write_text("job: hello\npython: a.py\nargs: [new]\n")
    publish(file, settings)
    assert copy.stat().st_ino != before.st_ino
    assert published_content("hello", settings) != content


def test_a_wrong_file_is_not_published(home: Path, file: Path) -> None:
    file.write_text("job: hello\npython: absent.py\n")
    with pytest.raises(SpecError, match=r"absent\.py"):
        publish(file, load())
    assert published_content("hello", load()) is None


def test_what_is_taken_back_is_gone_and_may_be_taken_back_twice(home: Path, file: Path) -> None:
    settings = load()
    publish(file, settings)
    unpublish("hello", settings)
    unpublish("hello", settings)
    assert published_content("hello", settings) is None


@pytest.mark.parametrize("first", [b"", b"# published by piecework: {}\n", b"# a comment\n"])
def test_a_file_put_there_by_hand_has_its_programs_beside_it(tmp_path: Path, first: bytes) -> None:
    path = tmp_path / "by-hand.yaml"
    path.write_bytes(first + b"job: a\n")
    found = read_publication(path)
    assert (found.text, found.code, found.content) == (first + b"job: a\n", tmp_path, None)


def test_an_import_error_is_of_the_content_that_was_published_then() -> None:
    error = error_of_content("absent.py does not exist", "abc")
    assert is_error_of(error + "\n", "abc")
    assert not is_error_of(error, "abcd")
    assert not is_error_of(error_of_content("absent.py does not exist", None), "abc")
