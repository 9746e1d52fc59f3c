"""What the launcher puts into the store."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from piecework.entrypoint.keep import CannotKeep, keep_artifacts, keep_result

ATTEMPT = "flights.clean.1a.1"


def artifacts(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder / "artifacts"


def environ(index: str | None = "0") -> dict[str, str]:
    found = {"PIECEWORK_ATTEMPT": ATTEMPT}
    return found if index is None else {**found, "PIECEWORK_INDEX": index}


@pytest.mark.parametrize(
    ("index", "place"),
    [("0", ATTEMPT), ("2", f"{ATTEMPT}/2"), (None, f"{ATTEMPT}/{socket.gethostname()}")],
)
def test_each_pod_of_an_attempt_has_a_place_of_its_own(
    tmp_path: Path, index: str | None, place: str
) -> None:
    folder, store = artifacts(tmp_path, "a", "b/c"), tmp_path / "store"
    kept = keep_artifacts(f"{store}/", environ(index), folder, 10)
    assert kept is not None
    assert (kept.url, kept.files, kept.lost) == (f"{store}/artifacts/{place}", 2, None)
    assert (store / "artifacts" / place / "b" / "c").read_text() == "b/c"


def test_without_artifacts_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "empty").mkdir(parents=True)
    assert keep_artifacts(str(tmp_path / "store"), environ(), tmp_path / "artifacts", 10) is None
    assert not (tmp_path / "store").exists()


def test_links_are_no_artifacts(tmp_path: Path) -> None:
    folder = artifacts(tmp_path, "a")
    (tmp_path / "secret").write_text("of somebody")
    (folder / "link").symlink_to(tmp_path / "secret")
    kept = keep_artifacts(str(tmp_path / "store"), environ(), folder, 10)
    assert kept is not None
    assert kept.files == 1


def test_what_takes_too_long_is_told(tmp_path: Path) -> None:
    folder = artifacts(tmp_path, *(f"{number}" for number in range(500)))
    kept = keep_artifacts(str(tmp_path / "store"), environ(), folder, 0)
    assert kept is not None
    assert kept.lost is not None
    assert "of its 500 artifacts could not be kept at" in kept.lost
    assert "it took longer than 0 s" in kept.lost


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    url = keep_result(f"file://{tmp_path}/store", ATTEMPT, b"[1]")
    assert url == f"file://{tmp_path}/store/results/{ATTEMPT}.json"
    assert [path.name for path in (tmp_path / "store" / "results").iterdir()] == [f"{ATTEMPT}.json"]


def test_a_store_that_nobody_knows_cannot_keep_a_result() -> None:
    with pytest.raises(CannotKeep, match="Protocol not known: nosuch"):
        keep_result("nosuch://bucket", ATTEMPT, b"[1]")
