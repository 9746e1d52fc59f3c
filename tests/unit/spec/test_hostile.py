"""Whatever a file holds: a Pipeline, or SpecError; never a traceback, never long, never much."""

from __future__ import annotations

import resource
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from piecework.errors import Problem, SpecError
from piecework.spec.load import load_text
from piecework.spec.tree import MOST_BYTES
from piecework.spec.wording import MOST_PROBLEMS

#: Seconds of processor time; the slowest of these takes about three on a slow machine.
BOUND_SECONDS = 60.0
BOUND_BYTES = 1 << 30


def anchor_bomb(levels: int) -> str:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, levels):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n"
    return text


def merge_bomb(levels: int) -> str:
    text = "a0: &a0 {k: v}\n"
    for level in range(1, levels):
        text += f"a{level}: &a{level}\n  <<: [{', '.join([f'*a{level - 1}'] * 9)}]\n"
    return text


def alias_chain(levels: int) -> str:
    """Nests ever deeper, a line a level."""
    return "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, levels))


def jobs(count: int, after: str) -> str:
    lines = [f"  j{i}: {{python: a.py, after: [{after.format(i - 1)}]}}" for i in range(count)]
    return "pipeline: x\njobs:\n" + "\n".join(lines)


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "anchor bomb": (anchor_bomb(30), "more than 100,000 values"),
    "merge bomb": (merge_bomb(30), "more than 100,000 values"),
    "alias chain": (alias_chain(400), "more than 50 levels"),
    "alias of itself": ("pipeline: &a [*a]", "which holds itself"),
    "unknown alias": ("pipeline: *a", "no anchor &a comes before it"),
    "20,000 lists": ("[" * 20_000, "more than 50 levels"),
    "20,000 lists, closed": ("[" * 20_000 + "]" * 20_000, "more than 50 levels"),
    "20,000 mappings": ("{a: " * 20_000 + "}" * 20_000, "more than 50 levels"),
    "20,000 levels of dashes": ("- " * 20_000, "more than 50 levels"),
    "1,400 levels of block": ("".join(" " * i + "a:\n" for i in range(1_400)), "than 50 levels"),
    "20,000 mappings as keys": ("? " * 20_000, "where a name is expected"),
    "object": ("!!python/object/apply:os.system [id]", "found the tag"),
    "object inside": ("job: a\npython: !!python/name:os.system x\n", "found the tag"),
    "own tag": ("job: !mine a\npython: a.py\n", "found the tag"),
    "huge": ("a" * (MOST_BYTES + 1), "more than 1,048,576 bytes"),
    "huge bytes": (b"a" * (MOST_BYTES + 1), "more than 1,048,576 bytes"),
    "binary": (bytes(range(256)), "which is not UTF-8"),
    "NUL": (b"job: a\0", "U+0000"),
    "half a character": ("job: \ud800", "U+D800"),
    "escape sequence": ("job: \x1b[31m", "U+001B"),
    "Latin-1": ("job: é".encode("latin-1"), "which is not UTF-8"),
    "UTF-16": ("job: a".encode("utf-16"), "which is not UTF-8"),
    "empty": (b"", "found nothing"),
    "comments only": ("# nothing\n" * 10, "found nothing"),
    "null": ("null", "found nothing"),
    "list": ("[1]", "found a list"),
    "text": ("hello", "found the text 'hello'"),
    "number": ("3", "found the number 3"),
    "two documents": ("job: a\npython: a.py\n---\njob: b\n", "found a second document"),
    "list as a key": ("[a]: b", "found a list where a name is expected"),
    "duplicate keys": ("job: a\npython: a.py\njob: b\n", "found 'job' a second time"),
    "90,000 duplicate keys": ("job: a\n" + "x: 1\n" * 90_000, "more than 200 problems"),
    "90,000 unknown fields": ("".join(f"k{i}: 1\n" for i in range(90_000)), "more than 200"),
    "90,000 wrong arguments": (f"job: a\npython: a.py\nargs: [{'1,' * 90_000}]", "more than 200"),
    "20,000 jobs": (jobs(20_000, "j{}"), "it has at most 1,000 entries"),
    "one cycle of 1,000 jobs": (
        jobs(1_000, "j{}").replace("j-1", "j999"),
        "found a cycle: j0 -> ",
    ),
    "50,000 unknown jobs": (jobs(1_000, ", ".join(f"k{i}" for i in range(50))), "no job of this"),
    "huge number": ("job: a\npython: a.py\npriority: " + "9" * 900_000, "a number of 900,000"),
    "not a number": ("job: a\npython: a.py\ntimeout: .nan", "found .nan"),
    "infinite": ("job: a\npython: a.py\npriority: -.inf", "found -.inf"),
    "too large a number": ("job: a\npython: a.py\npriority: 1e400", "too large a number"),
    "deep template": (f"job: a\npython: a.py\nargs: ['{{{{ {'(' * 8_000}']", "nests too deeply"),
    "long template": (f"job: a\npython: a.py\nargs: ['{'{{a}}' * 9_000}']", "at most 16,384"),
    "long text": ("job: a\npython: a.py\nargs: [" + "a" * 900_000 + "]", "131,071"),
    "long name": ("job: " + "a" * 900_000 + "\npython: a.py\n", "(900,000 long)"),
    "unquoted template": ("job: a\npython: a.py\nargs: [{{ ds }}]\n", "must be quoted"),
    "unquoted @": ("job: a\npython: a.py\nschedule: @daily\n", "quote the value"),
    "tab": ("job: a\n\tpython: a.py\n", "tab"),
    "colon": ("job: a\npython: a.py\ndescription: a: b\n", "quote a value that holds ': '"),
    "time zone that climbs": ("job: a\npython: a.py\ntimezone: ../../etc/passwd", "no time zone"),
    "time zone that is a folder": ("job: a\npython: a.py\ntimezone: America", "no time zone"),
    "cron": ("job: a\npython: a.py\nschedule: 5L/2 * * * *", "which is not cron"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_words_quickly_and_in_bounded_memory(name: str) -> None:
    text, message = HOSTILE[name]
    started = time.process_time()
    with pytest.raises(SpecError) as raised:
        load_text(text, "p.yaml")
    assert message in str(raised.value)
    assert len(raised.value.problems) <= MOST_PROBLEMS + 1
    for problem in raised.value.problems:  # one line each, in our words
        assert str(problem).isprintable()
        assert "pydantic" not in str(problem)
        assert "Value error" not in str(problem)
    assert len(str(raised.value)) < 200_000
    assert time.process_time() - started < BOUND_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < BOUND_BYTES


def load_or_refuse(text: str | bytes) -> tuple[Problem, ...]:
    """The problems, none where the text was read."""
    try:
        load_text(text, "p.yaml")
    except SpecError as error:
        problems = error.problems
    else:
        return ()
    assert problems
    for problem in problems:
        assert problem.message
        assert str(problem).isprintable()
    return problems


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    load_or_refuse(content)


@given(st.text(st.characters(), max_size=300))
@settings(deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    load_or_refuse(text)


WORDS = """pipeline job jobs python spark after args env machine timeout params default << : -
[ ] { } , ' " | > & * ! % @ ` ? # ~ a b 1 1.5 2020-01-01 yes .nan &x *x {{ }} {% %} !!python/x"""
SPACES = [
    "\n",
    "\n  ",
    "\n    ",
    ": ",
    "- ",
    " ",
    "\t",
    "\r",
    "\x85",
    "\u2028",
    "\ufeff",
    "\n---\n",
]
YAML_PIECES = st.sampled_from([*WORDS.split(), *SPACES])


@given(st.lists(YAML_PIECES, max_size=40).map("".join))
@settings(deadline=None, max_examples=100)
def test_any_nonsense_in_the_shape_of_yaml_is_read_or_refused(text: str) -> None:
    load_or_refuse(text)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.datetimes()
    | st.binary(max_size=5)
    | st.sampled_from(["a.py", "a", "b", "1h", "4Gi", "@daily", "{{ x }}", "UTC", "prefer"])
)
NAMES = """pipeline job jobs a b python container spark dask custom args env after machine pool team
priority timeout deadline on_deadline retries description schedule timezone start catchup
params tags max_active_runs default type enum run file conf mode image command cpu memory gpu
count spot arch burstable engine program infrastructure error"""
FIELDS = st.sampled_from(NAMES.split())
NONSENSE = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(FIELDS | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)


@given(st.dictionaries(FIELDS, NONSENSE, max_size=8))
@settings(deadline=None, max_examples=100)
def test_values_of_any_type_in_any_field_are_read_or_refused(data: dict[str, object]) -> None:
    load_or_refuse(yaml.safe_dump(data, allow_unicode=True))


@given(st.dictionaries(FIELDS, NONSENSE, max_size=8))
@settings(deadline=None, max_examples=50)
def test_every_problem_of_a_file_that_is_yaml_has_a_place_in_it(data: dict[str, object]) -> None:
    text = yaml.safe_dump({"pipeline": "p", "jobs": {"a": data}})
    lines = text.count("\n")
    for problem in load_or_refuse(text):
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
