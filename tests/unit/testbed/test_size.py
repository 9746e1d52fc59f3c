from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import TestbedError
from testbed.size import size_of, write_views


def test_a_type_has_the_size_of_the_price_list() -> None:
    size = size_of("m6a.4xlarge")
    assert (size.cpus, size.memory.bytes // 2**30, size.gpus) == (16, 64, 0)
    assert size_of("g4dn.xlarge").gpus == 1


def test_an_unknown_type_is_answered_with_a_suggestion() -> None:
    with pytest.raises(TestbedError, match=r"m6a\.lrge.*m6a\.large"):
        size_of("m6a.lrge")


def test_the_views_say_what_the_type_has(tmp_path: Path) -> None:
    write_views(size_of("m6a.4xlarge"), tmp_path / "size")
    lines = (tmp_path / "size" / "meminfo").read_text().splitlines()
    total = next(line for line in lines if line.startswith("MemTotal"))
    assert total.split() == ["MemTotal:", str(64 * 2**20), "kB"]
    assert (tmp_path / "size" / "cpuinfo").read_text().count("processor\t") == 16
    assert (tmp_path / "size" / "cpu" / "online").read_text() == "0-15\n"
    assert len(list((tmp_path / "size" / "cpu").glob("cpu[0-9]*"))) == 16
    assert list((tmp_path / "size" / "node").iterdir()) == []
