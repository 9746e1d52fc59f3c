"""A job's log, passed on byte by byte where it goes to a file, and made harmless on a terminal.

On a terminal text, colours, tabs and line ends pass; everything else that could move the cursor,
change the title or answer for the user is shown as its escape. Bytes that are no UTF-8 are shown
as replacement characters.
"""

from __future__ import annotations

import codecs
import re
from typing import BinaryIO, TextIO

from piecework.cli import terminal

#: A colour, which may pass, or any control character, which may not.
_COLOUR_OR_CONTROL = re.compile(
    r"(\x1b\[[0-9;:]{0,64}m)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
#: A colour that may not be complete yet.
_BEGUN = re.compile(r"\x1b(\[[0-9;:]{0,64})?\Z")
_RESET = "\x1b[0m"


class Harmless:
    """Turns bytes, as they come, into text that a terminal can be trusted with."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.coloured = False

    def feed(self, data: bytes, final: bool = False) -> str:
        """The text of these bytes; what may be the beginning of a colour is kept for later."""
        text = self._held + self._decoder.decode(data, final)
        begun = None if final else _BEGUN.search(text)
        self._held = text[begun.start() :] if begun else ""
        return _COLOUR_OR_CONTROL.sub(self._replace, text[: begun.start()] if begun else text)

    def _replace(self, match: re.Match[str]) -> str:
        if match[1]:
            self.coloured = match[1] not in ("\x1b[m", _RESET)
            return match[1]
        return match[0].encode("unicode_escape").decode()


class LogOutput:
    """Where a log is printed: raw, or harmless where a person looks at it."""

    def __init__(self, stream: TextIO) -> None:
        self._text = stream
        self._binary: BinaryIO | None = getattr(stream, "buffer", None)
        on_terminal = terminal.is_terminal(stream)
        self._harmless = Harmless() if on_terminal or self._binary is None else None
        self._last = b"\n"

    def write(self, data: bytes) -> None:
        """Prints these bytes at once."""
        if not data:
            return
        self._last = data[-1:]
        if self._harmless is None:
            assert self._binary is not None
            self._text.flush()
            self._binary.write(data)
            self._binary.flush()
        else:
            self._text.write(self._harmless.feed(data))
            self._text.flush()

    def end(self) -> None:
        """Finishes the last line and the last colour, on a terminal."""
        if self._harmless is None:
            return
        self._text.write(self._harmless.feed(b"", final=True))
        if self._harmless.coloured:
            self._text.write(_RESET)
        if self._last != b"\n":
            self._text.write("\n")
        self._text.flush()
