"""`python -m piecework` is the command `piecework`."""

from __future__ import annotations

import sys

from piecework.cli.main import main

sys.exit(main())
