from __future__ import annotations

import io
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.cli.log_output import Harmless, LogOutput

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@given(st.binary(max_size=300), st.integers(min_value=1, max_value=20))
def test_no_bytes_in_any_portions_let_a_control_character_through(data: bytes, size: int) -> None:
    harmless = Harmless()
    portions = [data[at : at + size] for at in range(0, len(data), size)]
    text = "".join(harmless.feed(portion) for portion in portions) + harmless.feed(b"", final=True)
    without_colours = re.sub(r"\x1b\[[0-9;:]*m", "", text)
    assert not _CONTROL.search(without_colours)


@given(st.text(st.characters(categories=("L", "N", "P", "Zs")), max_size=100))
def test_plain_text_passes_as_it_is(text: str) -> None:
    harmless = Harmless()
    assert harmless.feed(text.encode()) + harmless.feed(b"", final=True) == text


def test_colours_pass_even_in_pieces() -> None:
    harmless = Harmless()
    text = "".join(harmless.feed(bytes([byte])) for byte in b"a\x1b[31mred\x1b[0m")
    assert text == "a\x1b[31mred\x1b[0m"


def test_what_moves_the_cursor_or_sets_the_title_is_shown_as_its_escape() -> None:
    harmless = Harmless()
    assert harmless.feed(b"\x1b[2J\x1b]0;mine\x07\r\n") == "\\x1b[2J\\x1b]0;mine\\x07\r\n"


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert Harmless().feed(b"caf\xe9 \xff\n") == "caf\ufffd \ufffd\n"


def test_a_file_gets_the_very_bytes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    output = LogOutput(stream)
    output.write(b"\xff\x00\x1b[2J")
    output.end()
    assert raw.getvalue() == b"\xff\x00\x1b[2J"


def test_a_terminal_gets_harmless_text_and_a_finished_line() -> None:
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as stream:
        output = LogOutput(stream)
        output.write(b"\x1b[31mred \x1b[2J")
        output.end()
        seen = b""
        while not seen.endswith(b"\n"):
            seen += os.read(leader, 1000)
    os.close(leader)
    assert seen.replace(b"\r\n", b"\n") == b"\x1b[31mred \\x1b[2J\x1b[0m\n"


@pytest.mark.parametrize("text", ["\x1b", "\x1b[", "\x1b[31"])
def test_a_colour_that_never_ends_is_shown_as_its_escape(text: str) -> None:
    harmless = Harmless()
    shown = harmless.feed(text.encode()) + harmless.feed(b"", final=True)
    assert shown == text.replace("\x1b", "\\x1b")
