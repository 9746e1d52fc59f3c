"""What the unit tests share: how hypothesis invents."""

from __future__ import annotations

from hypothesis import settings

# A slow machine is no failure; what is slow shows in the bench.
settings.register_profile("piecework", deadline=None)
settings.load_profile("piecework")
