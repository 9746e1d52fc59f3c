"""Tests in this folder start real processes; every one of them needs a Linux host."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(autouse=True)
def _needs_this_host(required_layer: Callable[[str], None]) -> None:
    required_layer("local")
