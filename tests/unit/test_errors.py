from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework import errors
from piecework.errors import PieceworkError, Problem, SpecError, show


def every_error(root: type[PieceworkError]) -> list[type[PieceworkError]]:
    return [root, *(each for child in root.__subclasses__() for each in every_error(child))]


def test_the_tree_in_the_docstring_is_the_tree_of_errors() -> None:
    for error in every_error(PieceworkError):
        if error.__module__ == errors.__name__:
            assert error.__name__ in (errors.__doc__ or "")


def test_exit_codes_say_whose_turn_it_is() -> None:
    assert errors.SpecError([]).exit_code == errors.ConfigError("x").exit_code == 2
    assert errors.NoMachineError("x").exit_code == 3
    assert errors.LedgerError("x").exit_code == 1


def test_problems_are_in_order_of_their_place() -> None:
    problems = [Problem("a", line, 1, "f", "m") for line in (10, 9, 2)]
    assert [problem.line for problem in SpecError(problems).problems] == [2, 9, 10]


def test_a_problem_is_a_line_that_editors_can_follow() -> None:
    assert str(Problem("p.yaml", 3, 7, "jobs.a", "wrong")) == "p.yaml:3:7: jobs.a: wrong"
    assert str(Problem("p.yaml", 0, 0, "", "empty")) == "p.yaml:0:0: (file): empty"


def test_a_spec_error_passes_between_processes_whole() -> None:
    error = SpecError([Problem("p.yaml", 3, 7, "jobs.a", "wrong")])
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems
    assert str(again) == str(error)


@given(st.text() | st.binary() | st.integers() | st.lists(st.text()))
def test_a_shown_value_is_one_short_printable_line(value: object) -> None:
    assert show(value).isprintable()
    assert len(show(value)) < 400


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, 10**10_000, [10**10_000], ["x"] * 10**5],
    ids=["text", "number", "list with a number", "long list"],
)
def test_a_huge_value_is_shown_short(value: object) -> None:
    assert len(show(value)) < 200
