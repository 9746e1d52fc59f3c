"""The runner of a run is that of the pool that its attempts are on."""

from __future__ import annotations

from pathlib import Path

import pytest

from piecework.cli.runners import Runners, run_of
from piecework.config import Settings
from piecework.errors import InputError
from piecework.runners.kubernetes import KubernetesRunner
from piecework.runners.local import LocalRunner
from piecework.runners.runner import AttemptStatus


@pytest.fixture
def runners(tmp_path: Path) -> Runners:
    pools = {"spot": {"provider": "karpenter", "kubeconfig": str(tmp_path / "none")}}
    return Runners(Settings(home=tmp_path, ledger_url="sqlite://", pools=pools))


def test_each_pool_has_its_runner_and_it_is_made_once(runners: Runners) -> None:
    assert isinstance(runners.of("spot", "a run"), KubernetesRunner)
    assert runners.of("spot", "a run") is runners.of("spot", "another")
    assert isinstance(runners.of("local", "a run"), LocalRunner)
    assert isinstance(runners.of(None, "an old run"), LocalRunner)


def test_a_pool_that_is_not_configured_any_more_is_named(runners: Runners) -> None:
    with pytest.raises(InputError, match=r"flights\.clean\.1 .* 'gone'.*local, spot"):
        runners.of("gone", "flights.clean.1")


def test_a_cluster_that_does_not_answer_hides_no_other_error(runners: Runners) -> None:
    assert runners.find_unrecorded("flights.clean.1") is None


def test_a_run_is_named_by_its_attempts() -> None:
    assert run_of([AttemptStatus("flights.clean.1a.1", "ended")]) == "flights.clean.1a"
