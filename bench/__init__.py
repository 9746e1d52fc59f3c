"""Measurements, each beside what it is compared with: `python -m bench [NAMES] [--quick]`."""
