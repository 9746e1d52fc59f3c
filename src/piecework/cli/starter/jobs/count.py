"""Counts the words of the greeting; what it writes to PIECEWORK_RESULT is its result."""

import json
import os
from pathlib import Path

data = Path(os.environ["PIECEWORK_DATA"])
words = len((data / "greeting.txt").read_text().split())
print(f"The greeting has {words} words.")
Path(os.environ["PIECEWORK_RESULT"]).write_text(json.dumps({"words": words}))
