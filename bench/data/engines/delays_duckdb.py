"""The questions of examples/flights' `delays`, asked of DuckDB: one process, one machine."""

import json
import math
import os
import time
from pathlib import Path

import duckdb  # type: ignore[import-not-found]  # its image has it
import fsspec

BEGAN = time.time()
MIN_DELAY = 30
COUNTS = """
    count(*) AS flights,
    round(100 * avg(late), 2) AS late_percent,
    round(avg(arr_delay), 2) AS mean_delay,
    round(100 * avg(CASE WHEN arr_delay IS NULL THEN 1 ELSE 0 END), 2) AS never_arrived_percent
"""
QUESTIONS = {
    "by_carrier": f"""
        SELECT name AS carrier, {COUNTS} FROM trips JOIN airlines USING (carrier)
        GROUP BY name""",
    "by_plane_age": f"""
        SELECT least(floor((trips.year - planes.year) / 5) * 5, 25) AS years_from, {COUNTS}
        FROM trips JOIN planes USING (tailnum) WHERE planes.year IS NOT NULL
        GROUP BY years_from""",
    "by_hour": f"""
        SELECT origin, hour, {COUNTS} FROM trips
        GROUP BY origin, hour HAVING count(*) >= 100""",
    "by_month": f"SELECT month, {COUNTS} FROM trips GROUP BY month",
    "by_visibility": f"""
        SELECT CASE WHEN visib < 1 THEN 'under 1' WHEN visib < 3 THEN '1 to 3'
                    WHEN visib < 10 THEN '3 to 10' ELSE '10' END AS miles, {COUNTS}
        FROM trips JOIN weather USING (origin, time_hour) GROUP BY miles""",
}


def main() -> None:
    data = os.environ["PIECEWORK_DATA"]
    files, tables = fsspec.url_to_fs(f"{data}/tables")
    base = duckdb.connect()
    base.execute(f"SET threads = {math.ceil(float(os.environ['PIECEWORK_CPUS']))}")
    base.execute("SET memory_limit = '4GB'")
    # One copy on the machine's disk, then DuckDB reads only the columns that it needs.
    files.get(tables, "tables", recursive=True)
    for name in ("airlines", "planes", "weather"):
        base.execute(f"CREATE VIEW {name} AS SELECT * FROM 'tables/{name}.parquet'")
    late = f"CASE WHEN arr_delay > {MIN_DELAY} THEN 1 WHEN arr_delay IS NOT NULL THEN 0 END"
    base.execute(f"CREATE VIEW trips AS SELECT *, {late} AS late FROM 'tables/flights.parquet'")
    print(f"the tables are here after {time.time() - BEGAN:.1f} s", flush=True)
    for name, question in QUESTIONS.items():
        answer = base.execute(question).df()
        with fsspec.open(f"{data}/duckdb/{name}.parquet", "wb") as file:
            answer.to_parquet(file, index=False)
    (overall,) = base.execute(f"SELECT {COUNTS} FROM trips").df().to_dict("records")
    Path(os.environ["PIECEWORK_RESULT"]).write_text(json.dumps(overall))


if __name__ == "__main__":
    main()
