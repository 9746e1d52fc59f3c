"""Rows as aligned columns of text.

Enters a heading and rows; leaves lines that read without colour. On a terminal the columns that may
shrink are cut so that no line wraps. Written here because importing a library for it would take
longer than the command that it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from piecework.cli import terminal

_GAP = "  "
_NARROWEST = 12


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; whether its cells stand on the right; whether they may be cut to fit."""

    title: str
    right: bool = False
    shrinks: bool = False


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str | None]], width: int | None = None
) -> str:
    """The table as text, without a newline at its end. An unknown cell (None) is shown as "-"."""
    cells = [["-" if cell is None else terminal.one_line(cell) for cell in row] for row in rows]
    widths = [
        max([len(column.title), *(len(row[index]) for row in cells)])
        for index, column in enumerate(columns)
    ]
    if width is not None:
        _shrink(columns, widths, width)
    lines = [_line(columns, [column.title for column in columns], widths)]
    lines[0] = terminal.style(lines[0], bold=True)
    lines += [_line(columns, row, widths) for row in cells]
    return "\n".join(lines)


def _shrink(columns: Sequence[Column], widths: list[int], width: int) -> None:
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    shrinking = [index for index, column in enumerate(columns) if column.shrinks]
    while excess > 0 and shrinking:
        widest = max(shrinking, key=lambda index: widths[index])
        if widths[widest] <= _NARROWEST:
            return
        widths[widest] -= 1
        excess -= 1


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        text = cell if len(cell) <= width else cell[: width - 1] + "…"
        parts.append(text.rjust(width) if column.right else text.ljust(width))
    return _GAP.join(parts).rstrip()
