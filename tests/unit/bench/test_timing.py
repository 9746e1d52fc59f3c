"""What the benches report: spreads, ratios within pairs, limits."""

from __future__ import annotations

import pytest

from bench.__main__ import main
from bench.timing import Figure, Pairs, Spread, measure_pairs


def test_a_ratio_is_taken_within_each_pair() -> None:
    pairs = Pairs(candidate=(2.0, 30.0, 4.0), baseline=(1.0, 10.0, 1.0))
    assert pairs.ratio() == Spread(least=2.0, median=3.0, most=4.0, times=3)
    assert pairs.difference_ms() == Spread(least=1000.0, median=3000.0, most=20000.0, times=3)


def test_both_sides_take_turns_and_neither_is_always_first() -> None:
    order: list[str] = []
    pairs = measure_pairs(lambda: order.append("a"), lambda: order.append("b"), 3)
    assert order[2:] == ["a", "b", "b", "a", "a", "b"]
    assert len(pairs.candidate) == len(pairs.baseline) == 3


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure("x", Spread.of([9, 10, 99]), at_most=10), True),
        (Figure("x", Spread.of([9, 11, 99]), at_most=10), False),
        (Figure("x", Spread.of([1500, 1900, 2100]), at_least=2000), False),
        (Figure("x", Spread.of([1500, 2000]), at_least=2000, at_most=1000), False),
        (Figure("x", Spread.of([1])), None),
    ],
)
def test_a_limit_is_held_against_the_median(figure: Figure, met: bool | None) -> None:
    assert figure.met is met


def test_an_unknown_bench_is_refused_with_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["startupp"])
    assert refused.value.code == 2
    assert "there are startup, attempt, ledger, airflow, spark" in capsys.readouterr().err
