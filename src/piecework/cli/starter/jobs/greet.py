"""Greets, and leaves the greeting for the jobs after it."""

import os
import sys
from pathlib import Path

name = sys.argv[1] if len(sys.argv) > 1 else "world"
greeting = f"Hello, {name}! I have {os.environ['PIECEWORK_CPUS']} CPU of my own."
print(greeting)

# PIECEWORK_DATA is the folder in which the jobs of one pipeline run exchange data.
data = Path(os.environ["PIECEWORK_DATA"])
data.mkdir(parents=True, exist_ok=True)
(data / "greeting.txt").write_text(greeting)
