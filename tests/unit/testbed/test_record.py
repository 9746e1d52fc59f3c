from __future__ import annotations

from pathlib import Path

from testbed import record, wishes
from testbed.place import Place


def test_a_life_is_read_back_with_its_moments_in_order(tmp_path: Path) -> None:
    place = Place("t", tmp_path, 0)
    record.write(place, "m1", "bought", type="m6a.large", provider_id="aws:///z/m1")
    record.write(place, "m2", "bought", type="m6a.xlarge")
    record.write(place, "m1", "started")
    record.write(place, "m1", "stopped", why="given back")
    lives = record.read(place)
    life = lives["m1"]
    assert (life.type, life.provider_id, life.why) == ("m6a.large", "aws:///z/m1", "given back")
    assert life.bought
    assert life.started
    assert life.stopped
    assert life.bought <= life.started <= life.stopped
    assert lives["m2"].stopped is None


def test_the_first_time_of_a_moment_counts(tmp_path: Path) -> None:
    place = Place("t", tmp_path, 0)
    record.write(place, "m1", "stopped", why="died")
    first = record.read(place)["m1"].stopped
    record.write(place, "m1", "stopped")
    assert record.read(place)["m1"].stopped == first
    assert record.read(place)["m1"].why == "died"


def test_wishes_of_a_pool_win_over_those_of_all(tmp_path: Path) -> None:
    place = Place("t", tmp_path, 0)
    assert wishes.read(place, "a") == wishes.Wishes()
    wishes.write(place, wishes.ANY, wishes.Wishes(boot_seconds=3))
    wishes.write(place, "a", wishes.Wishes(boot_seconds=7))
    assert wishes.read(place, "a").boot_seconds == 7
    assert wishes.read(place, "b").boot_seconds == 3
    wishes.clear(place)
    assert wishes.read(place, "a") == wishes.Wishes()


def test_only_as_many_machines_never_join_as_were_wished(tmp_path: Path) -> None:
    place = Place("t", tmp_path, 0)
    wishes.write(place, "a", wishes.Wishes(never_join=2))
    assert [wishes.take_never_join(place, "a") for _ in range(3)] == [True, True, False]
    wishes.write(place, "a", wishes.Wishes(never_join=-1))
    assert all(wishes.take_never_join(place, "a") for _ in range(5))
