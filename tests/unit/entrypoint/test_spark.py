"""How Spark is sized, and what it is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.entrypoint import spark, spark_sizes
from piecework.entrypoint.start import CannotStart, Machine

GIBI = 2**30


def test_the_heap_of_a_4_gib_machine_leaves_room_for_python() -> None:
    heap = spark.local_heap(Machine(2, 4 * GIBI), {})
    assert heap == int(4096 * 0.93 / 1.4)


def test_memory_outside_the_heap_is_taken_from_it() -> None:
    conf = {"spark.memory.offHeap.enabled": "true", "spark.memory.offHeap.size": "1g"}
    assert spark.local_heap(Machine(2, 4 * GIBI), conf) == int((4096 * 0.93 - 1024) / 1.4)
    conf["spark.memory.offHeap.enabled"] = "false"
    assert spark.local_heap(Machine(2, 4 * GIBI), conf) == spark.local_heap(
        Machine(2, 4 * GIBI), {}
    )


def test_a_machine_too_small_for_spark_is_refused_with_what_it_needs() -> None:
    with pytest.raises(CannotStart, match=r"needs a machine with 771 MiB.*this one has 700 MiB"):
        spark.local_heap(Machine(1, 700 * 2**20), {})
    assert spark.local_heap(Machine(1, 772 * 2**20), {}) >= spark_sizes.LEAST_HEAP


@given(st.integers(1, 192), st.integers(3, 1024))
def test_the_parts_of_a_standalone_cluster_never_exceed_the_machine(cores: int, gib: int) -> None:
    machine = Machine(cores, gib * GIBI)
    try:
        sizes = spark.standalone_sizes(machine, {})
    except CannotStart:
        assert gib / cores < 1  # many executors, and less than a GiB for each core
        return
    heaps = sizes.driver_heap + sizes.executors * sizes.executor_heap
    whole = heaps * spark_sizes.PER_HEAP + 2 * spark.DAEMON_WHOLE
    assert whole <= gib * 1024 * (1 - spark_sizes.RESERVED)
    assert sizes.executors * sizes.executor_cores <= cores
    assert sizes.executor_cores <= spark_sizes.MOST_EXECUTOR_CORES
    assert sizes.executors * sizes.executor_heap <= sizes.workers_mib


def unescape(text: str) -> dict[str, str]:
    """Reads the properties format as Java's class Properties documents it."""
    found = {}
    for line in text.splitlines():
        parts = [""]
        characters = iter(line)
        for character in characters:
            if character == "\\":
                following = next(characters)
                parts[-1] += {"n": "\n", "r": "\r"}.get(following, following)
            elif character == "=" and len(parts) == 1:
                parts.append("")
            else:
                parts[-1] += character
        found[parts[0]] = parts[1]
    return found


@given(
    st.dictionaries(
        st.text(
            st.characters(codec="utf-8", exclude_characters="\n\r\f\v\x1c\x1d\x1e\x85\u2028\u2029"),
            min_size=1,
        ),
        st.text(
            st.characters(codec="utf-8", exclude_characters="\f\v\x1c\x1d\x1e\x85\u2028\u2029")
        ),
    )
)
def test_properties_say_what_was_meant_whatever_is_in_them(settings: dict[str, str]) -> None:
    assert unescape(spark.properties_text(settings)) == settings
