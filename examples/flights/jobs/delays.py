"""Who is late, on which planes, and when: Spark SQL over flights, airlines, planes and weather.

A flight is late when it arrives more than --min-delay minutes after its time. Flights that were
cancelled or diverted have no arrival and count apart.
"""
# ruff: noqa: S608 (every text in the questions is written in this file)

import argparse
import json
import os
from pathlib import Path

import fsspec
from pyspark.sql import DataFrame, SparkSession

COUNTS = """
    count(*) AS flights,
    round(100 * avg(late), 2) AS late_percent,
    round(avg(arr_delay), 2) AS mean_delay,
    round(100 * avg(if(arr_delay IS NULL, 1, 0)), 2) AS never_arrived_percent
"""
QUESTIONS = {
    "by_carrier": f"""
        SELECT name AS carrier, {COUNTS}
        FROM trips JOIN airlines USING (carrier)
        GROUP BY name ORDER BY late_percent DESC""",
    "by_plane_age": f"""
        SELECT least(floor((trips.year - planes.year) / 5) * 5, 25) AS years_from, {COUNTS}
        FROM trips JOIN planes USING (tailnum)
        WHERE planes.year IS NOT NULL
        GROUP BY years_from ORDER BY years_from""",
    "by_hour": f"""
        SELECT origin, hour, {COUNTS} FROM trips
        GROUP BY origin, hour HAVING flights >= 100 ORDER BY origin, hour""",
    "by_month": f"SELECT month, {COUNTS} FROM trips GROUP BY month ORDER BY month",
    "by_visibility": f"""
        SELECT CASE WHEN visib < 1 THEN 'under 1' WHEN visib < 3 THEN '1 to 3'
                    WHEN visib < 10 THEN '3 to 10' ELSE '10' END AS miles, {COUNTS}
        FROM trips JOIN weather USING (origin, time_hour)
        GROUP BY miles ORDER BY late_percent DESC""",
}


def find_tables(data: str) -> str:
    """The tables where Spark can read them: fsspec knows more places."""
    if "://" not in data or data.startswith("hdfs://"):
        return f"{data}/tables"
    files, place = fsspec.url_to_fs(f"{data}/tables")
    files.get(place, "tables", recursive=True)
    return "tables"


def load_trips(spark: SparkSession, tables: str, min_delay: int) -> DataFrame:
    """All tables as views, and `trips`: flights with 1 or 0 for late, nothing where unknown."""
    for name in ("flights", "airlines", "planes", "weather"):
        spark.read.parquet(f"{tables}/{name}.parquet").createOrReplaceTempView(name)
    trips = spark.sql("SELECT *, int(arr_delay > :min) AS late FROM flights", {"min": min_delay})
    trips.createOrReplaceTempView("trips")
    return trips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--min-delay", type=int, default=30, help="minutes")
    options = parser.parse_args()
    data = os.environ["PIECEWORK_DATA"]
    spark = SparkSession.builder.getOrCreate()

    load_trips(spark, find_tables(data), options.min_delay).cache()
    folder = f"{data}/delays"
    for name, question in QUESTIONS.items():
        answer = spark.sql(question).toPandas()  # a few rows: they fit here
        with fsspec.open(f"{folder}/{name}.parquet", "wb") as file:
            answer.to_parquet(file, index=False)
        print(f"\n{name.replace('_', ' ')}, late: more than {options.min_delay} minutes")
        print(answer.to_string(index=False))
    overall = spark.sql(f"SELECT {COUNTS} FROM trips").first()
    assert overall is not None
    print(f"\nAll: {overall.flights:,} flights, {overall.late_percent} % of arrivals late")
    summary = json.dumps({"min_delay": options.min_delay, **overall.asDict()})
    with fsspec.open(f"{folder}/summary.json", "w") as file:
        file.write(summary)
    Path(os.environ["PIECEWORK_RESULT"]).write_text(summary)
    spark.stop()


if __name__ == "__main__":
    main()
