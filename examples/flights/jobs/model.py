"""Predicts a late arrival with Spark MLlib, from what is known before departure.

The departure's own delay would give the answer away and is not used. The weather is that measured
in the hour of the scheduled departure, where an airline would have a forecast. Every fifth day is
held out whole, so that no flight is predicted from others in the same storm.
"""

import argparse
import json
import os
from pathlib import Path

import fsspec
import pandas as pd
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import (
    Imputer,
    OneHotEncoder,
    StandardScaler,
    StringIndexer,
    VectorAssembler,
)
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 (what everybody calls it)

WEATHER = ["temp", "humid", "wind_speed", "precip_root", "pressure", "visib"]
NUMBERS = ["distance", "plane_age", *WEATHER]
KINDS = ["carrier", "origin", "dest", "month", "weekday", "hour"]


def find_tables(data: str) -> str:
    """The tables where Spark can read them: fsspec knows more places."""
    if "://" not in data or data.startswith("hdfs://"):
        return f"{data}/tables"
    files, place = fsspec.url_to_fs(f"{data}/tables")
    files.get(place, "tables", recursive=True)
    return "tables"


def load_flights(spark: SparkSession, tables: str, min_delay: int) -> DataFrame:
    """Flights that arrived, with their plane's age, the weather, `label` and `held_out`."""
    flights, planes, weather = (
        spark.read.parquet(f"{tables}/{name}.parquet") for name in ("flights", "planes", "weather")
    )
    weather = weather.select(
        "origin", "time_hour", "temp", "humid", "pressure", "visib",
        F.when(F.col("wind_speed") < 200, F.col("wind_speed")).alias("wind_speed"),  # one says 1048
        F.sqrt("precip").alias("precip_root"),
    )  # fmt: skip
    planes = planes.select("tailnum", F.col("year").alias("built"))
    date = F.make_date("year", "month", "day")
    return (
        flights.where(F.col("arr_delay").isNotNull())
        .join(planes, "tailnum", "left")
        .join(weather, ["origin", "time_hour"], "left")
        .withColumn("plane_age", F.col("year") - F.col("built"))
        .withColumn("weekday", F.dayofweek(date))
        .withColumn("held_out", F.dayofyear(date) % 5 == 0)
        .withColumn("label", (F.col("arr_delay") > min_delay).cast("double"))
        .select("label", "held_out", *KINDS, *[F.col(name).cast("double") for name in NUMBERS])
    )


def build_pipeline() -> Pipeline:
    """Missing numbers become the median; every carrier, airport, hour gets a weight of its own."""
    vectors = [f"{name}_vector" for name in KINDS]
    kinds = [f"{name}_kind" for name in KINDS]
    return Pipeline(
        stages=[
            Imputer(strategy="median", inputCols=NUMBERS, outputCols=NUMBERS),
            StringIndexer(inputCols=KINDS, outputCols=kinds, handleInvalid="keep"),
            OneHotEncoder(inputCols=kinds, outputCols=vectors),
            VectorAssembler(inputCols=NUMBERS, outputCol="numbers"),
            StandardScaler(inputCol="numbers", outputCol="scaled", withMean=True),
            VectorAssembler(inputCols=["scaled", *vectors], outputCol="features"),
            LogisticRegression(maxIter=25, regParam=0.001),
        ]
    )


def find_calibration(predicted: DataFrame) -> list[dict[str, float]]:
    """Predicted against actual share of late flights, in ten groups of equal size."""
    chance = vector_to_array("probability")[1].alias("predicted")
    flights = predicted.select(chance, F.col("label").alias("actual")).toPandas()
    tenth = pd.qcut(flights["predicted"].rank(method="first"), 10, labels=False)
    return flights.groupby(tenth).mean().to_dict("records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--min-delay", type=int, default=30, help="minutes")
    options = parser.parse_args()
    data = os.environ["PIECEWORK_DATA"]
    spark = SparkSession.builder.getOrCreate()

    flights = load_flights(spark, find_tables(data), options.min_delay).cache()
    model = build_pipeline().fit(flights.where("NOT held_out"))
    predicted = model.transform(flights.where("held_out")).cache()
    auc = BinaryClassificationEvaluator(metricName="areaUnderROC").evaluate(predicted)
    calibration = find_calibration(predicted)

    weights = model.stages[-1].coefficients.toArray()[: len(NUMBERS)]
    strengths = dict(zip(NUMBERS, (round(float(weight), 3) for weight in weights), strict=True))
    counts = {
        bool(row.held_out): row["count"] for row in flights.groupBy("held_out").count().collect()
    }
    print(f"Late: more than {options.min_delay} minutes. Learned from {counts[False]:,} flights,")
    print(f"asked about {counts[True]:,} on days that it had not seen.")
    print(f"AUC on held-out flights: {auc:.4f} (0.5: guessing, 1: always right)")
    least, most = calibration[0]["actual"], calibration[-1]["actual"]
    print(f"Late in the tenth least at risk: {least:.1%}, most at risk: {most:.1%}")
    for name, strength in sorted(strengths.items(), key=lambda item: -abs(item[1])):
        print(f"  {name:11} {strength:+.3f} log-odds a standard deviation")
    result = {
        "min_delay": options.min_delay,
        "auc": auc,
        "learned_from": counts[False],
        "held_out": counts[True],
        "calibration": calibration,
        "strengths": strengths,
    }
    with fsspec.open(f"{data}/model/model.json", "w") as file:
        json.dump(result, file)
    Path(os.environ["PIECEWORK_RESULT"]).write_text(json.dumps({"auc": auc}))
    spark.stop()


if __name__ == "__main__":
    main()
