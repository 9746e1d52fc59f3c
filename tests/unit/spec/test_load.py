from __future__ import annotations

import os
import re
from datetime import date, timedelta
from pathlib import Path

import pytest

from piecework.errors import Problem, SpecError
from piecework.spec.load import load_data, load_pipeline, load_text
from piecework.spec.pipeline import Pipeline
from piecework.spec.wording import NAME_RULE

FLIGHTS = (Path(__file__).parent / "flights.yaml").read_text()


def problems_of(text: str | bytes, folder: Path | None = None) -> list[Problem]:
    with pytest.raises(SpecError) as raised:
        load_text(text, "p.yaml", folder)
    return list(raised.value.problems)


def told(text: str | bytes, folder: Path | None = None) -> list[str]:
    return [str(problem) for problem in problems_of(text, folder)]


def job(line: str) -> str:
    """A pipeline whose only job has this line of its own."""
    return f"pipeline: p\njobs:\n  a:\n    python: a.py\n    {line}\n"


def test_a_pipeline_as_the_design_shows_it_is_read() -> None:
    pipeline = load_text(FLIGHTS, "flights.yaml")
    assert pipeline.name == "flights"
    assert list(pipeline.jobs) == ["clean", "delays", "segments", "score"]
    assert [job.engine for job in pipeline.jobs.values()] == [
        "python",
        "spark",
        "dask",
        "container",
    ]
    assert pipeline.start == date(2024, 1, 31)
    assert pipeline.jobs["delays"].timeout == timedelta(minutes=45)
    assert str(pipeline.jobs["clean"].machine.memory) == "4Gi"


def test_a_job_has_what_its_pipeline_says_and_it_does_not() -> None:
    pipeline = load_text(FLIGHTS, "flights.yaml")
    clean, score = pipeline.job("clean"), pipeline.job("score")
    assert (clean.team, score.team) == ("analytics", "science")
    assert clean.env == {"TZ": "UTC", "MODE": "slow"}
    assert clean.retries.error == 2
    assert (score.retries.error, score.retries.infrastructure) == (2, 3)
    assert score.retries.out_of_memory == 1


def test_all_problems_are_told_at_once_and_in_order_of_their_place() -> None:
    text = """\
pipeline: fl ights
shedule: "@daily"
timezone: Europe/Berln
jobs:
  clean:
    python: ../clean.py
    args: ["{{ ds", 1.5, 2020-01-01, no]
    machine: {cpu: two, memory: 4GB, spot: prefered, gpus: 1, gpu: "1"}
  delays:
    sparc: delays.py
    after: [claen, delays]
    timeout: "{{ x }}"
    retries: {error: 500}
  x: {python: x.py, after: [y], spark: x.py}
  y: {python: y.py, after: [x], args: .inf}
  z:
  w: hello
"""
    lines = told(text)
    assert [line.split(": ")[0] + " " + line.split(": ")[1] for line in lines] == [
        "p.yaml:1:11 pipeline",
        "p.yaml:2:1 shedule",
        "p.yaml:3:11 timezone",
        "p.yaml:6:13 jobs.clean.python",
        "p.yaml:7:12 jobs.clean.args[0]",
        "p.yaml:7:21 jobs.clean.args[1]",
        "p.yaml:7:26 jobs.clean.args[2]",
        "p.yaml:7:38 jobs.clean.args[3]",
        "p.yaml:8:20 jobs.clean.machine.cpu",
        "p.yaml:8:33 jobs.clean.machine.memory",
        "p.yaml:8:44 jobs.clean.machine.spot",
        "p.yaml:8:54 jobs.clean.machine.gpus",
        "p.yaml:8:68 jobs.clean.machine.gpu",
        "p.yaml:10:5 jobs.delays.sparc",
        "p.yaml:11:13 jobs.delays.after[0]",
        "p.yaml:11:20 jobs.delays.after[1]",
        "p.yaml:12:14 jobs.delays.timeout",
        "p.yaml:13:22 jobs.delays.retries.error",
        "p.yaml:14:3 jobs.x",
        "p.yaml:14:29 jobs.x.after[0]",
        "p.yaml:15:39 jobs.y.args",
        "p.yaml:16:5 jobs.z",
        "p.yaml:17:6 jobs.w",
    ]


@pytest.mark.parametrize(
    ("line", "field", "message"),
    [
        ("machin: {}", "machin", "unknown field; did you mean machine?"),
        ("machine: {memory: 4GB}", "machine.memory", "did you mean 4G?"),
        ("machine: {memory: 4}", "machine.memory", "found 4, which is less than 1Mi; did you mean"),
        ("machine: {spot: prefered}", "machine.spot", "did you mean prefer?"),
        ("machine: 3", "machine", "found the number 3; a machine is written as a mapping"),
        ("machine: {count: 0}", "machine.count", "found 0; the least is 1"),
        ("machine: {burstable: 'yes'}", "machine.burstable", "true or false is right here"),
        ("machine: {type: 'm7a large'}", "machine.type", "like m7a.large"),
        ("priority: high", "priority", "found the text 'high'; a whole number is right here"),
        ("priority: 1.5", "priority", "found the number 1.5; a whole number is right here"),
        ("team: 2020-01-01", "team", "found the date 2020-01-01; a text is right here: quote it"),
        ("team: no", "team", "found the truth value false; a text is right here: quote it"),
        ("team: a b", "team", "a name has up to 63 letters"),
        ("args: [1]", "args[0]", "found the number 1; a text is right here: quote it"),
        ("args: ds", "args", "did you mean [ds]?"),
        ("args: {a: b}", "args", "found a mapping; a list is right here"),
        ("env: [a]", "env", "found a list; a mapping is right here"),
        ("env: {'a b': x}", "env.'a b'", "letters, digits and '_'"),
        ("env: {PIECEWORK_RUN: x}", "env.PIECEWORK_RUN", "piecework's own"),
        ('env: {A: "\\0"}', "env.A", "NUL"),
        ("after: [b]", "after[0]", "found 'b', which is no job of this pipeline"),
        ("timeout: 1:30", "timeout", "a duration is written like 45m, 2h or 1h30m"),
        ("timeout: 400d", "timeout", "at most 366 days"),
        ("team: '{{ x }}'", "team", "templates are rendered in args, env and the program's fields"),
        ("retries: {errors: 1}", "retries.errors", "did you mean error?"),
        ("on_deadline: kill", "on_deadline", "one of notify, cancel is right"),
        ("args: ['{{ x']", "args[0]", "which does not parse as a template"),
        ("args: !!python/object/apply:os.system [id]", "args", "found the tag"),
    ],
)
def test_a_wrong_field_is_told_with_what_would_be_right(
    line: str, field: str, message: str
) -> None:
    (problem,) = problems_of(job(line))
    assert (problem.line, problem.field) == (5, f"jobs.a.{field}")
    assert message in problem.message


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("python: ../a.py", "leads out of the folder"),
        ("python: /etc/a.py", "stay in its folder, like 'jobs/a.py'"),
        ("python: ~/a.py", "stay in its folder"),
        ("python: jobs/clean.sh", "a Python file is right here"),
        ("python: clean.py:main", "named by its module, like package.module:function"),
        ("python: a b", "a module like package.module"),
        ("python: 3", "a program"),
        ("python:", "found nothing; python names the program to start"),
        ("spark: s3://bucket/a.py", "found the address"),
        ("spark: {mode: local}", "is missing: the Python file"),
        ("spark: {file: a.py, mode: lokal}", "did you mean local?"),
        ("dask: {file: a.py, threads_per_worker: 0}", "the least is 1"),
        ("container: {image: ''}", "it must not be empty"),
        ("container: {image: 'a b'}", "an image is written like registry/name:tag"),
        ("pithon: a.py", "unknown field; did you mean python?"),
        ("timeout: 1h", "found no engine; a job names exactly one of python, container, spark"),
    ],
)
def test_a_wrong_program_is_told_with_what_would_be_right(program: str, message: str) -> None:
    (problem,) = problems_of(f"pipeline: p\njobs:\n  a:\n    {program}\n")
    assert problem.line in (3, 4)
    assert message in problem.message or message == "a program"


def test_a_file_with_a_single_job_is_a_pipeline_of_one_job() -> None:
    pipeline = load_text("job: a\npython: a.py\nschedule: '@daily'\nparams: {n: 1}\n", "a.yaml")
    assert pipeline.name == "a"
    assert pipeline.jobs["a"].file == "a.py"
    assert (pipeline.schedule, pipeline.defaults) == ("@daily", {"n": 1})


def test_a_single_job_is_checked_at_its_own_places() -> None:
    assert told("job: a b\npython: a.py\nschedule: daily\nmachin: 3\n") == [
        f"p.yaml:1:6: job: found 'a b'; {NAME_RULE}",
        "p.yaml:3:11: schedule: found 'daily'; did you mean @daily?",
        "p.yaml:4:1: machin: unknown field; did you mean machine?",
    ]


def test_every_problem_in_a_file_that_was_read_has_its_place() -> None:
    for problem in problems_of("pipeline: 1\nparams: {x: {typ: 1}}\njobs: {a: {}, b: 1, c: []}\n"):
        assert problem.line >= 1
        assert problem.column >= 1


def test_a_cycle_is_named() -> None:
    text = "pipeline: p\njobs:\n"
    for name, before in [("a", "c"), ("b", "a"), ("c", "b"), ("d", "e"), ("e", "d")]:
        text += f"  {name}: {{python: a.py, after: [{before}]}}\n"
    messages = [problem.message for problem in problems_of(text)]
    assert len(messages) == 2
    assert "found a cycle: a -> " in messages[0]
    assert "found a cycle: d -> e -> d" in messages[1]


def test_two_engines_are_too_many() -> None:
    (problem,) = problems_of(job("spark: b.py"))
    assert "found python and spark; a job names exactly one engine" in problem.message


def test_a_schedule_needs_defaults_for_its_parameters() -> None:
    (problem,) = problems_of(
        "job: a\npython: a.py\nschedule: '@daily'\nparams: {x: {type: string}}\n"
    )
    assert (problem.line, problem.field) == (4, "params.x")


def test_catching_up_needs_a_start_and_a_schedule() -> None:
    messages = [p.message for p in problems_of("job: a\npython: a.py\ncatchup: true\n")]
    assert messages == ["found true, which needs schedule", "found true, which needs start"]


def test_a_single_job_without_its_name_is_told_what_is_missing() -> None:
    assert [(p.line, p.field) for p in problems_of("python: a.py\ntimout: 1h\n")] == [
        (1, "job"),
        (2, "timout"),
    ]


# Files


def test_a_program_that_does_not_exist_is_told_with_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "clean.py").touch()
    path = tmp_path / "p.yaml"
    path.write_text("job: a\npython: jobs/claen.py\n")
    with pytest.raises(SpecError, match=re.escape("did you mean jobs/clean.py?")):
        load_pipeline(path)


def test_programs_that_exist_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    path = tmp_path / "p.yaml"
    path.write_text("job: a\npython: a.py\n")
    assert load_pipeline(path).jobs["a"].file == "a.py"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "a.py").touch()
    (inside / "jobs").symlink_to(outside)
    (inside / "b.py").symlink_to(outside / "a.py")
    (inside / "c.py").symlink_to("c.py")
    for name in ("jobs/a.py", "b.py"):
        (problem,) = problems_of(f"job: a\npython: {name}\n", inside)
        assert "a link leads out of the folder" in problem.message
    (problem,) = problems_of("job: a\npython: c.py\n", inside)
    assert problem.line == 2


def test_a_link_inside_of_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.py").touch()
    (tmp_path / "a.py").symlink_to("real.py")
    assert load_text("job: a\npython: a.py\n", "p.yaml", tmp_path).jobs["a"].file == "a.py"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "is a folder" in told("job: a\npython: folder.py\n", tmp_path)[0]
    assert "is not a file" in told("job: a\npython: pipe.py\n", tmp_path)[0]
    for path in (tmp_path, tmp_path / "pipe.yaml", tmp_path / "none.yaml", Path("/dev/zero")):
        with pytest.raises(SpecError, match=r"name a pipeline file|did you mean"):
            load_pipeline(path)


def test_a_path_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    path = "a" * 3000 + ".py"
    (problem,) = problems_of(f"job: a\npython: {path}\n", tmp_path)
    assert "cannot be opened" in problem.message
    with pytest.raises(SpecError, match="cannot be read"):
        load_pipeline(tmp_path / ("a" * 3000))


# Plain data


def test_plain_data_is_checked_like_a_file() -> None:
    data = {"job": "a", "python": "a.py", "machin": 1}
    with pytest.raises(SpecError) as raised:
        load_data(data, "request")
    assert str(raised.value) == "request:0:0: machin: unknown field; did you mean machine?"
    assert isinstance(load_data({"job": "a", "python": "a.py"}, "request"), Pipeline)


@pytest.mark.parametrize("data", [None, 1, "a", [], ["job"], {1: 2}, {"job": {}}, {"job": None}])
def test_data_of_any_shape_is_refused_with_words(data: object) -> None:
    with pytest.raises(SpecError):
        load_data(data, "request")
