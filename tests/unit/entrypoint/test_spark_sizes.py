"""How memory and cores are divided between the parts of a Spark application."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.entrypoint import spark_sizes
from piecework.entrypoint.start import CannotStart

GIBI = 2**30


@pytest.mark.parametrize(
    ("cores", "each", "executors"), [(1, 1, 1), (8, 8, 1), (9, 8, 1), (12, 6, 2), (64, 8, 8)]
)
def test_executors_have_at_most_eight_cores_and_waste_the_fewest(
    cores: int, each: int, executors: int
) -> None:
    assert spark_sizes.executor_cores(cores) == (each, executors)


@given(st.integers(9, 512))
def test_no_size_of_executor_would_use_more_cores(cores: int) -> None:
    each, executors = spark_sizes.executor_cores(cores)
    assert 4 <= each <= 8
    assert each * executors == max(size * (cores // size) for size in range(4, 9))


@pytest.mark.parametrize(
    ("text", "size"), [("1073741824", GIBI), ("2g", 2 * GIBI), ("512m", 2**29), ("1GiB", GIBI)]
)
def test_sizes_are_read_as_spark_reads_them(text: str, size: int) -> None:
    assert spark_sizes.parse_size(text) == size


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(CannotStart, match="sizes are written like 2g"):
        spark_sizes.parse_size("lots")


@given(st.integers(450, 500_000), st.integers(0, 100_000))
def test_a_heap_fits_into_the_memory_that_is_asked_for_it(heap: int, beside: int) -> None:
    memory = spark_sizes.memory_for(heap, beside)
    assert heap <= spark_sizes.heap_of(memory, beside) <= heap + 2
