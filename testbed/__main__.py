"""The command line: python -m testbed up, down, status, and what a trial needs besides."""

from __future__ import annotations

import sys

from testbed.command import main

sys.exit(main(sys.argv[1:]))
