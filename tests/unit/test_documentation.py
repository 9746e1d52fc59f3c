"""The documentation is true where a program can tell: links, examples, commands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from piecework.cli.main import VERBS
from piecework.config import Settings
from piecework.plan.price import load_price_book
from piecework.spec.data import load_data
from piecework.spec.load import load_text
from piecework.spec.pool import load_pools

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    broken = [link for link in links if not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_pipeline_that_is_shown_is_right(page: Path) -> None:
    for text in blocks(page, "yaml"):
        if text.startswith("pipeline:"):
            assert load_text(text, page.name, None).jobs


def test_the_settings_that_are_shown_are_right() -> None:
    shown = [tomllib.loads(text) for page in PAGES for text in blocks(page, "toml")]
    assert shown
    for values in shown:
        pools = load_pools(Settings(Path("/nowhere"), "sqlite://", pools=values.get("pools", {})))
        for pool in pools.values():
            load_price_book(pool)
        data = values.get("data", {})
        if isinstance(data, dict):
            access = {name: value for name, value in data.items() if name != "url"}
            load_data(Settings(Path("/nowhere"), "sqlite://", access=access))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_named_exists(page: Path) -> None:
    verbs = {verb for group in VERBS.values() for verb in group}
    commands = re.findall(r"(?:`|bin/|^    )piecework ([a-z]+)", page.read_text("utf-8"), re.M)
    assert not set(commands) - verbs


def test_every_decision_is_in_the_list() -> None:
    listed = set(LINK.findall(read("docs/decisions/README.md")))
    assert {page.name for page in (ROOT / "docs/decisions").glob("*.md")} - {"README.md"} == listed


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    for page in PAGES:
        named = re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text("utf-8"), re.M)
        assert not set(named) - targets, page.name
