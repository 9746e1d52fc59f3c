"""Which weather delays flights, with Dask: each condition against fair weather in like hours.

Storms come in summer and in the evening, when flights are late anyway. So each flight is compared
with the flights that left in fair weather in the same month and hour of the day: what is late
beyond their share is put down to the weather.
"""

import argparse
import json
import os
from pathlib import Path

import dask.dataframe as dd
import fsspec
import pandas as pd
from dask.distributed import Client

#: In inches an hour, miles, miles an hour, degrees Fahrenheit, hectopascal.
CONDITIONS = {
    "rain, light": "precip > 0 and precip < 0.1 and temp > 34",
    "rain, heavy": "precip >= 0.1 and temp > 34",
    "snow or sleet": "precip > 0 and temp <= 34",
    "fog (under 1 mile)": "visib < 1",
    "haze (1 to 5 miles)": "visib >= 1 and visib < 5",
    "wind over 20 mph": "wind_speed > 20",
    "low pressure": "pressure < 1005",
    "heat over 90 °F": "temp > 90",
}
LIKE = ["month", "hour"]


def join_weather(tables: str, min_delay: int) -> dd.DataFrame:
    """Flights that arrived, with the weather of their hour, and whether they were late."""
    flights = dd.read_parquet(
        f"{tables}/flights.parquet", columns=["origin", "time_hour", "arr_delay", *LIKE]
    )
    flights = flights.dropna(subset=["arr_delay"]).repartition(npartitions=8)
    with fsspec.open(f"{tables}/weather.parquet") as file:
        weather = pd.read_parquet(file).drop(columns=["year", "day", *LIKE])
    weather = weather[~(weather["wind_speed"] > 200)]  # one hour says 1048 mph
    for name, condition in CONDITIONS.items():
        weather[name] = weather.eval(condition)
    weather["fair"] = ~weather[list(CONDITIONS)].any(axis=1)
    weather = weather[["origin", "time_hour", "fair", *CONDITIONS]]
    joined = flights.merge(weather, on=["origin", "time_hour"])
    return joined.assign(late=joined["arr_delay"] > min_delay)


def weigh_conditions(trips: dd.DataFrame) -> pd.DataFrame:
    """For each condition: flights, share late, share expected, and late flights beyond it."""
    fair = trips[trips["fair"]].groupby(LIKE)["late"].mean().rename("expected").reset_index()
    trips = trips.merge(fair.compute(), on=LIKE).persist()
    rows = {}
    for name in CONDITIONS:
        met = trips[trips[name]]
        rows[name] = met[["late", "expected"]].sum(), met["late"].count()
    (found,) = dd.compute(rows)
    table = pd.DataFrame(
        {
            name: {"flights": count, "late": sums["late"], "expected": sums["expected"]}
            for name, (sums, count) in found.items()
            if count
        }
    ).T
    table["late_percent"] = 100 * table["late"] / table["flights"]
    table["expected_percent"] = 100 * table["expected"] / table["flights"]
    table["beyond"] = table["late"] - table["expected"]
    return table.sort_values("late_percent", ascending=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--min-delay", type=int, default=30, help="minutes")
    options = parser.parse_args()
    data = os.environ["PIECEWORK_DATA"]
    with Client() as client:
        print(f"On {client.ncores()}, threads by worker")
        table = weigh_conditions(join_weather(f"{data}/tables", options.min_delay))

    print(f"Share of flights more than {options.min_delay} minutes late, and what is expected in")
    print("fair weather in the same month and hour; a flight can meet several conditions")
    print(
        table.round(1).to_string(columns=["flights", "late_percent", "expected_percent", "beyond"])
    )
    with fsspec.open(f"{data}/weather/conditions.parquet", "wb") as file:
        table.rename_axis("condition").reset_index().to_parquet(file)
    worst = {"worst": str(table.index[0]), "late_percent": round(table["late_percent"].iloc[0], 2)}
    Path(os.environ["PIECEWORK_RESULT"]).write_text(json.dumps(worst))


if __name__ == "__main__":
    main()
