"""A folder becomes the same zip wherever it lies, and reaches the pods once."""

from __future__ import annotations

import base64
import io
import os
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.entrypoint.fetch import fetch_code
from piecework.entrypoint.start import CannotStart
from piecework.errors import ConfigError
from piecework.kube.client import Kube
from piecework.runners import code
from piecework.runners.code import Bundle, Shelf, bundle, launcher
from piecework.runners.store import Store
from tests.unit.kube.server import Object, Server, Written, found, page, refused

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def fill(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(made: Bundle) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(made.data)).namelist()


def shelf(*replies: Written | Exception, store: str = "") -> tuple[Shelf, Server]:
    server = Server(list(replies))
    place = Store(store) if store else None
    return Shelf(Kube(server), "jobs", place, now=lambda: NOW), server


def test_equal_folders_give_equal_bytes(tmp_path: Path) -> None:
    first = fill(tmp_path / "a", job="x = 1", lib__rows="y = 2")
    second = fill(tmp_path / "b", lib__rows="y = 2", job="x = 1")
    os.utime(second / "job", (1, 1))
    assert bundle(first) == bundle(second)
    assert names(bundle(first)) == ["job", "lib/rows"]


def test_a_changed_file_makes_another_bundle(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", job="x = 1")
    before = bundle(folder)
    assert bundle(folder) is before  # nothing was read again
    fill(folder, job="x = 2")
    os.utime(folder / "job", (5, 5))
    assert bundle(folder).sha256 != before.sha256


def test_what_is_hidden_compiled_or_installed_is_left_out(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", job="x", venv__lib="x", own__lib="x", own__keep="x")
    fill(folder, node_modules__lib="x")
    for name in (".git/config", ".env", "__pycache__/job.pyc", "job.pyc", "own/pyvenv.cfg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    assert names(bundle(folder)) == ["job"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    shared = fill(tmp_path / "shared", rows="x")
    folder = fill(tmp_path / "a", job="x")
    (folder / "lib").symlink_to(shared)
    (folder / "again").symlink_to(folder)
    assert names(bundle(folder)) == ["job", "lib/rows"]


def test_a_folder_that_is_no_code_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", job="x", data="x")
    os.truncate(folder / "data", code.MOST_BYTES + 1)  # sparse: it takes no room
    with pytest.raises(ConfigError, match=r"largest are data .*PIECEWORK_DATA"):
        bundle(folder)
    with pytest.raises(ConfigError, match="is not there"):
        bundle(tmp_path / "none")


file_names = st.text("abc", min_size=1, max_size=3)


@given(st.dictionaries(file_names, st.binary(max_size=20), max_size=5))
def test_what_is_unpacked_is_what_was_packed(files: dict[str, bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "from")
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        made = bundle(folder)
        zipped = Path(place, "code.zip")
        zipped.write_bytes(made.data)
        into = Path(place, "to")
        fetch_code({"path": str(zipped), "sha256": made.sha256}, into)
        assert {p.name: p.read_bytes() for p in into.glob("*")} == files


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out"])
def test_a_zip_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    import hashlib

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("fine", "x")
        archive.writestr(name, "x")
    zipped = tmp_path / "code.zip"
    zipped.write_bytes(buffer.getvalue())
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    with pytest.raises(CannotStart, match="no plain file"):
        fetch_code({"path": str(zipped), "sha256": sha256}, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_programs_stay_executable(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", tool="#!/bin/sh")
    (folder / "tool").chmod(0o755)
    made = bundle(folder)
    (tmp_path / "code.zip").write_bytes(made.data)
    fetch_code({"path": str(tmp_path / "code.zip"), "sha256": made.sha256}, tmp_path / "to")
    assert os.access(tmp_path / "to" / "tool", os.X_OK)


def test_without_a_store_code_goes_into_a_config_map_named_by_its_hash(tmp_path: Path) -> None:
    made = bundle(fill(tmp_path / "a", job="x"))
    place, server = shelf(found({}, 201), page())
    ref = place.put_code(made)
    assert place.put_code(made) == ref
    assert [asked.method for asked in server.asked] == ["POST", "GET"]
    body = server.asked[0].body
    assert body["metadata"]["name"] == ref.config_map == f"piecework-code-{made.sha256[:16]}"
    assert body["metadata"]["labels"]["piecework.dev/kind"] == "code"
    assert body["immutable"] is True
    assert base64.b64decode(body["binaryData"]["code.zip"]) == made.data
    assert ref.order() == {"path": "/piecework/code/code.zip", "sha256": made.sha256}


def test_code_that_is_there_is_marked_as_used(tmp_path: Path) -> None:
    made = bundle(fill(tmp_path / "a", job="x"))
    place, server = shelf(refused(409, "AlreadyExists"), found({}))
    place.put_code(made)
    annotations = server.asked[1].body["metadata"]["annotations"]
    assert annotations == {"piecework.dev/used": "2026-11-24T00:00:00.000000Z"}


def test_code_that_nobody_asked_for_in_a_week_and_no_pod_mounts_is_removed(tmp_path: Path) -> None:
    def config_map(name: str, used: str) -> Object:
        return {"metadata": {"name": name, "annotations": {"piecework.dev/used": used}}}

    mounts = {"spec": {"volumes": [{"emptyDir": {}}, {"configMap": {"name": "mounted"}}]}}
    place, server = shelf(
        found({}, 201),
        page(
            config_map("old", "2026-11-16T00:00:00.000000Z"),
            config_map("mounted", "2026-11-16T00:00:00.000000Z"),
            config_map("new", "2026-11-18T00:00:00.000000Z"),
            {"metadata": {"name": "unmarked"}},
        ),
        page({"metadata": {"name": "pod"}, **mounts}),
        found({}),
    )
    place.put_code(bundle(fill(tmp_path / "a", job="x")))
    assert "PartialObjectMetadataList" in server.asked[1].headers["Accept"]
    gone = [asked.path for asked in server.asked if asked.method == "DELETE"]
    assert gone == ["/api/v1/namespaces/jobs/configmaps/old"]


def test_large_code_without_a_store_is_refused_with_what_to_do() -> None:
    place, _ = shelf()
    with pytest.raises(ConfigError, match="Set `store`"):
        place.put_code(Bundle("0" * 64, os.urandom(code.CONFIG_MAP_BYTES + 1)))


def test_a_store_gets_the_code_once_and_whole(tmp_path: Path) -> None:
    made = bundle(fill(tmp_path / "a", job="x"))
    place, server = shelf(store=f"file://{tmp_path}/store")
    ref = place.put_code(made)
    assert ref.order() == {
        "url": f"file://{tmp_path}/store/code/{made.sha256}.zip",
        "sha256": made.sha256,
    }
    kept = list((tmp_path / "store" / "code").iterdir())
    assert [path.read_bytes() for path in kept] == [made.data]
    kept[0].write_bytes(made.data[:-1])  # torn: it is written again by whoever has not put it yet
    shelf(store=f"file://{tmp_path}/store")[0].put_code(made)
    assert kept[0].read_bytes() == made.data
    assert server.asked == []


def test_a_store_that_cannot_be_used_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for store in ("nosuch://bucket", f"file://{tmp_path}/file"):
        with pytest.raises(ConfigError, match="store"):
            shelf(store=store)[0].put_code(Bundle("0" * 64, b"x"))


def test_the_launcher_is_the_same_file_for_everybody() -> None:
    assert launcher() is launcher()
    assert {"__main__.py", "piecework/__init__.py", "piecework/entrypoint/pod.py"} <= set(
        names(launcher())
    )
    assert len(launcher().data) < code.CONFIG_MAP_BYTES / 4
    place, server = shelf(found({}, 201))
    assert place.put_launcher() == f"piecework-launcher-{launcher().sha256[:16]}"
    assert list(server.asked[0].body["binaryData"]) == ["launcher.pyz"]
