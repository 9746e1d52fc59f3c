from __future__ import annotations

import subprocess
import sys

import pytest

from piecework.errors import SpecError
from piecework.spec.job import Job
from piecework.spec.templates import find_problems, render_job


def test_arguments_environment_and_program_are_rendered() -> None:
    job = Job(
        spark={"file": "jobs/{{ params.name }}.py", "conf": {"a": "{{ ds }}"}},
        args=["{{ ds }}", "plain", "{% if params.n > 1 %}many{% endif %}"],
        env={"N": "{{ params.n + 1 }}"},
    )
    rendered = render_job(job, {"ds": "2024-01-31", "params": {"name": "clean", "n": 2}})
    assert rendered.spark is not None
    assert (rendered.spark.file, rendered.spark.conf) == ("jobs/clean.py", {"a": "2024-01-31"})
    assert (rendered.args, rendered.env) == (("2024-01-31", "plain", "many"), {"N": "3"})


def test_a_job_without_templates_stays_the_same_object() -> None:
    job = Job(python="a.py", args=["{", "}}"])
    assert render_job(job, {}) is job


def test_what_does_not_render_is_all_told() -> None:
    job = Job(python="a.py", args=["{{ dss }}"], env={"A": "{{ params.x }}", "B": "{{ 1 / 0 }}"})
    with pytest.raises(SpecError) as raised:
        render_job(job, {"ds": "x", "params": {}})
    assert [problem.field for problem in raised.value.problems] == ["args[0]", "env.A", "env.B"]
    assert "'dss' is undefined; known names are ds, params" in raised.value.problems[0].message


def test_a_path_that_climbs_only_once_rendered_is_refused() -> None:
    with pytest.raises(SpecError, match="leads out of the folder"):
        render_job(Job(python="{{ d }}/a.py"), {"d": "../.."})


def test_templates_cannot_reach_into_python() -> None:
    job = Job(python="a.py", args=["{{ ''.__class__.__mro__[1].__subclasses__() }}"])
    with pytest.raises(SpecError, match="does not render"):
        render_job(job, {})


@pytest.mark.parametrize(
    "text", ["", "plain", "{ }", "{{ ds }}", "{# c #}", "{% raw %}{{{% endraw %}"]
)
def test_templates_that_parse_have_no_problem(text: str) -> None:
    assert find_problems(text) is None


@pytest.mark.parametrize("text", ["{{", "{{ }}", "{% x %}", "{% if a %}", "{{ a b }}", "{# a"])
def test_templates_that_do_not_parse_are_told(text: str) -> None:
    problem = find_problems(text)
    assert problem is not None
    assert "does not parse as a template" in problem


def test_jinja2_is_imported_only_for_templates() -> None:
    code = (
        "import sys\nfrom piecework.spec.load import load_text\n"
        "load_text('job: a\\npython: a.py\\nargs: [x]\\n', 'p.yaml')\n"
        "assert 'jinja2' not in sys.modules\n"
        "load_text('job: a\\npython: a.py\\nargs: [\"{{ ds }}\"]\\n', 'p.yaml')\n"
        "assert 'jinja2' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
