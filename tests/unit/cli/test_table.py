from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from piecework.cli.table import Column, table

COLUMNS = [Column("NAME"), Column("COST", right=True), Column("CAUSE", shrinks=True)]


def plain(text: str) -> list[str]:
    import click

    return click.unstyle(text).split("\n")


def test_columns_are_aligned_numbers_to_the_right() -> None:
    lines = plain(table(COLUMNS, [["a", "$1.00", "x"], ["bcd", "$10.00", "y"]]))
    assert lines == [
        "NAME    COST  CAUSE",
        "a      $1.00  x",
        "bcd   $10.00  y",
    ]


def test_what_is_unknown_is_a_dash() -> None:
    assert plain(table(COLUMNS, [["a", None, None]]))[1].split() == ["a", "-", "-"]


def test_only_columns_that_may_shrink_are_cut_to_fit_the_terminal() -> None:
    lines = plain(table(COLUMNS, [["a" * 20, "$1.00", "c" * 50]], width=50))
    assert len(lines[1]) == 50
    assert lines[1].endswith("…")
    assert "a" * 20 in lines[1]


def test_nothing_is_cut_where_there_is_no_terminal() -> None:
    assert "c" * 500 in table(COLUMNS, [["a", "b", "c" * 500]])


def test_control_characters_of_a_cell_never_reach_the_terminal() -> None:
    text = table([Column("CAUSE")], [["bad \x1b]0;title\x07 line\nbreak \u202e"]])
    assert plain(text)[1] == r"bad \x1b]0;title\x07 line break \u202e"


@given(
    st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), max_size=5),
    st.integers(min_value=1, max_value=200) | st.none(),
)
def test_any_cells_make_one_line_each(rows: list[list[str]], width: int | None) -> None:
    assert len(plain(table(COLUMNS, rows, width))) == len(rows) + 1
