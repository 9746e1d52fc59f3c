from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from piecework.config import Settings
from piecework.errors import ConfigError, RunnerError
from piecework.ledger.events import Outcome
from piecework.runners.pod_fields import Kept
from piecework.runners.runner import AttemptStatus
from piecework.runners.store import Store, fetch_result

ATTEMPT = "flights.clean.1a.1"


def settings_of(store: str, **access: Any) -> Settings:
    return Settings(Path(), "", store=store, access=access)


def status_with(kept: Kept) -> AttemptStatus:
    return AttemptStatus(ATTEMPT, "ended", outcome=Outcome.SUCCESS, kept=kept)


def put_result(folder: Path, data: bytes) -> Kept:
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / f"{ATTEMPT}.json").write_bytes(data)
    return Kept(hashlib.sha256(data).hexdigest(), len(data))


def test_without_a_setting_there_is_no_store() -> None:
    assert Store.of(settings_of("")) is None


def test_a_kept_log_is_read_by_its_offset(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"{ATTEMPT}.log").write_bytes(b"0123456789")
    store = Store(f"file://{tmp_path}/")
    assert store.url_of("logs/x.1.log") == f"file://{tmp_path}/logs/x.1.log"
    assert store.read_log(ATTEMPT, 2, 3) == b"234"
    assert store.read_log(ATTEMPT, 10, 3) == b""
    assert store.read_log("none.1", 0, 3) == b""
    with pytest.raises((RunnerError, ConfigError)):
        Store("nosuch://x").read_log("none.1", 0, 3)


def test_s3_is_found_where_the_configuration_says_that_it_is() -> None:
    s3 = {"endpoint": "http://host:9000", "region": "eu-west-1", "path_style": True}
    store = Store.of(settings_of("s3://bucket/piecework", s3=s3))
    assert store is not None
    assert store.options["endpoint_url"] == "http://host:9000"
    assert store.options["client_kwargs"] == {"region_name": "eu-west-1"}


def test_a_name_service_of_hdfs_is_found_by_its_namenodes() -> None:
    hdfs = {"lake": {"namenodes": ["nn1:8020"]}}
    store = Store.of(settings_of("hdfs://lake/piecework", hdfs=hdfs))
    assert store is not None
    assert store.options["dfs.namenode.rpc-address.lake.nn1"] == "nn1:8020"


def test_a_result_that_was_too_long_for_its_pod_is_read(tmp_path: Path) -> None:
    kept = put_result(tmp_path, b'{"rows": 3}')
    found = fetch_result(settings_of(str(tmp_path)), status_with(kept))
    assert (found.result, found.lost) == ({"rows": 3}, None)


def test_a_result_that_somebody_changed_or_removed_is_lost_and_never_another(
    tmp_path: Path,
) -> None:
    kept = put_result(tmp_path, b'{"rows": 3}')
    put_result(tmp_path, b'{"rows": 4}')
    found = fetch_result(settings_of(str(tmp_path)), status_with(kept))
    assert found.result is None
    assert found.lost is not None
    assert "is not what the attempt had written there" in found.lost
    (tmp_path / "results" / f"{ATTEMPT}.json").unlink()
    found = fetch_result(settings_of(str(tmp_path)), status_with(kept))
    assert "its result of 11 bytes cannot be read" in (found.lost or "")
    assert "is not there any more" in (found.lost or "")
    found = fetch_result(settings_of(""), status_with(kept))
    assert "names no `store`" in (found.lost or "")
