"""The questions of examples/flights' `delays`, asked of Dask."""

import json
import os
from pathlib import Path

import dask
import dask.dataframe as dd
import fsspec
import pandas as pd
from dask.distributed import Client

MIN_DELAY = 30
SUMS = ["flights", "arrived", "late", "delay"]
COLUMNS = ["year", "month", "hour", "origin", "carrier", "tailnum", "time_hour", "arr_delay"]


def read_trips(tables: str) -> dd.DataFrame:
    """Flights, each with what is added up: itself, that it arrived, that it was late, its delay."""
    trips = dd.read_parquet(
        f"{tables}/flights.parquet",
        columns=COLUMNS,
        split_row_groups="adaptive",
        blocksize="32MiB",
    )
    arrived = trips["arr_delay"].notnull()
    return trips.assign(
        flights=1,
        arrived=arrived.astype("int64"),
        late=(trips["arr_delay"] > MIN_DELAY).fillna(False).astype("int64"),
        delay=trips["arr_delay"].fillna(0),
    )


def counts(sums: pd.DataFrame) -> pd.DataFrame:
    """What `delays` tells of each group, from the sums."""
    return pd.DataFrame(
        {
            "flights": sums["flights"],
            "late_percent": (100 * sums["late"] / sums["arrived"]).round(2),
            "mean_delay": (sums["delay"] / sums["arrived"]).round(2),
            "never_arrived_percent": (100 * (1 - sums["arrived"] / sums["flights"])).round(2),
        }
    )


def ask(tables: str) -> dict[str, pd.DataFrame]:
    """The sums of each question, with the group as index."""
    trips = read_trips(tables).persist()
    planes = pd.read_parquet(f"{tables}/planes.parquet", storage_options={})
    planes = planes[["tailnum", "year"]].dropna().rename(columns={"year": "built"})
    weather = pd.read_parquet(f"{tables}/weather.parquet", storage_options={})
    weather = weather[["origin", "time_hour", "visib"]]
    bins = pd.cut(weather["visib"], [-1, 1, 3, 10, 1e9], right=False)
    names = ["under 1", "1 to 3", "3 to 10", "10"]
    weather["miles"] = bins.cat.rename_categories(names).astype(str)
    weather.loc[weather["visib"].isna(), "miles"] = "10"

    aged = trips[["tailnum", "year", *SUMS]].merge(planes, on="tailnum")
    aged = aged.assign(years_from=((aged["year"] - aged["built"]) // 5 * 5).clip(upper=25))
    seen = trips[["origin", "time_hour", *SUMS]].merge(
        weather[["origin", "time_hour", "miles"]], on=["origin", "time_hour"]
    )
    found: dict[str, pd.DataFrame]
    (found,) = dask.compute(
        {
            "by_carrier": trips.groupby("carrier")[SUMS].sum(),
            "by_plane_age": aged.groupby("years_from")[SUMS].sum(),
            "by_hour": trips.groupby(["origin", "hour"])[SUMS].sum(),
            "by_month": trips.groupby("month")[SUMS].sum(),
            "by_visibility": seen.groupby("miles")[SUMS].sum(),
        }
    )
    return found


def main() -> None:
    data = os.environ["PIECEWORK_DATA"]
    tables = f"{data}/tables"
    with Client():
        found = ask(tables)
    airlines = pd.read_parquet(f"{tables}/airlines.parquet", storage_options={})
    names = airlines.set_index("carrier")["name"]
    found["by_carrier"] = found["by_carrier"].rename(index=names)
    found["by_hour"] = found["by_hour"][found["by_hour"]["flights"] >= 100]
    for name, sums in found.items():
        with fsspec.open(f"{data}/dask/{name}.parquet", "wb") as file:
            counts(sums).reset_index().to_parquet(file, index=False)
    overall = counts(found["by_month"].sum().to_frame().T).iloc[0].to_dict()
    overall["flights"] = int(overall["flights"])
    Path(os.environ["PIECEWORK_RESULT"]).write_text(json.dumps(overall))


if __name__ == "__main__":
    main()
