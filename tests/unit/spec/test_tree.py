from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from piecework.spec.tree import field_path, read_tree


def value_of(text: str | bytes) -> Any:
    tree, problems = read_tree(text, "p.yaml")
    assert not problems
    assert tree is not None
    return tree.value


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a: 1", 1),
        ("a: -1_000", -1000),
        ("a: 0x1F", 31),
        ("a: 0o17", 15),
        ("a: 1.5", 1.5),
        ("a: 1e3", 1000.0),
        ("a: .5", 0.5),
        ("a: yes", True),
        ("a: off", False),
        ("a: ~", None),
        ("a:", None),
        ("a: 2020-01-31", date(2020, 1, 31)),
        ("a: 2020-01-31T10:00:00Z", datetime(2020, 1, 31, 10, tzinfo=UTC)),
        # What YAML's versions read differently, or what is no such value, stays a text.
        ("a: 007", "007"),
        ("a: 1:30", "1:30"),
        ("a: 2020-13-45", "2020-13-45"),
        ("a: 1.2.3", "1.2.3"),
        ("a: y", "y"),
        ("a: '1'", "1"),
        ('a: "yes"', "yes"),
        ("a: !!str 1", "1"),
        ("a: ! 1", "1"),
        ("a: |\n  x\n", "x\n"),
    ],
)
def test_plain_values_are_what_people_mean(written: str, read: object) -> None:
    value = value_of(written)["a"]
    assert value == read
    assert type(value) is type(read)


def test_names_are_texts_whatever_they_look_like() -> None:
    assert value_of("{1: a, yes: b, 2020-01-01: c, null: d}") == {
        "1": "a",
        "yes": "b",
        "2020-01-01": "c",
        "null": "d",
    }


def test_places_count_characters_from_1() -> None:
    tree, _ = read_tree("äöü: x\nb:\n  - 1\n  - {c: d}\n", "p.yaml")
    assert tree is not None
    assert tree.fields is not None
    assert (tree.fields["äöü"].node.line, tree.fields["äöü"].node.column) == (1, 6)
    items = tree.fields["b"].node.items
    assert items is not None
    assert items[1].fields is not None
    assert (items[1].line, items[1].fields["c"].column) == (4, 6)


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert value_of("\ufeffa: 1".encode()) == {"a": 1}
    assert value_of("\ufeffa: 1") == {"a": 1}


def test_aliases_stand_for_their_values() -> None:
    assert value_of("a: &x {b: 1}\nc: *x\nd: &k e\n*k : f\n") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": "e",
        "e": "f",
    }


def test_merge_keys_bring_what_is_not_said_itself() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\n"
    assert value_of(text)["c"] == {"x": 3, "y": 1, "z": 2}
    assert value_of('a: {"<<": 1}') == {"a": {"<<": 1}}


def test_a_merge_of_what_is_no_mapping_is_told() -> None:
    _, problems = read_tree("a:\n  <<: 3\n", "p.yaml")
    assert [(p.line, p.column) for p in problems] == [(2, 3)]


def test_all_that_can_be_told_of_one_file_is_told() -> None:
    _, problems = read_tree("a: 1\na: 2\nb: !x y\nc: .nan\n", "p.yaml")
    assert sorted(p.line for p in problems) == [2, 3, 4]


def test_the_place_of_a_byte_that_is_not_utf_8_is_told() -> None:
    _, (problem,) = read_tree("a: é\nb: ö".encode()[:-1], "p.yaml")
    assert (problem.line, problem.column) == (2, 4)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ((), ""),
        (("a",), "a"),
        (("a", 0, "b"), "a[0].b"),
        (("jobs", "a b"), "jobs.'a b'"),
        (("jobs", "\x1b[31m"), "jobs.'\\x1b[31m'"),
        (("", "a.b"), "''.'a.b'"),
    ],
)
def test_a_field_is_named_on_one_line(location: tuple[str | int, ...], path: str) -> None:
    assert field_path(location) == path
