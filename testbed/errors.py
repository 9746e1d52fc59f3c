"""What the testbed raises on purpose, below piecework's one root."""

from __future__ import annotations

from piecework.errors import PieceworkError


class TestbedError(PieceworkError):
    """The testbed could not do what it was asked; the message says what to do."""

    #: pytest collects classes named Test...; this is none.
    __test__ = False


class MissingProgramError(TestbedError):
    """A program is not here and no registry has it; the message names where it was looked for."""
