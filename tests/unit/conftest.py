"""What the unit tests share: how hypothesis invents, and that nothing leaves this process."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from pytest_socket import disable_socket

# A slow machine is no failure; what is slow shows in the bench.
settings.register_profile(
    "piecework", deadline=None, max_examples=100 if "CI" in os.environ else 20
)
settings.load_profile("piecework")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A unit test needs no network; one that opens a socket fails."""
    disable_socket(allow_unix_socket=True)
