"""How AWS's answers are taken that are none."""

from __future__ import annotations

import io
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse

from piecework.errors import ClusterError
from piecework.machines.cloud import Aws
from piecework.spec.pool import Group, Pool

POOL = Pool(
    name="work", provider="asg", region="us-east-1", groups=(Group(name="work", type="m6a.large"),)
)


class _Page(io.BytesIO):
    """A body as it comes over the wire."""

    def stream(self, **_: Any) -> Any:
        yield self.read()


def test_a_page_of_html_is_no_answer_and_the_cloud_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "ACCESS_KEY_ID": "x",
        "SECRET_ACCESS_KEY": "x",
        "MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    session = boto3.session.Session()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)

    def answer(request: Any, **_: Any) -> AWSResponse:
        page = _Page(b"<!doctype html>\n<html lang=en>\n<h1>Internal Server Error</h1>")
        return AWSResponse(request.url, 500, {"Content-Type": "text/html"}, page)

    session.events.register("before-send.*", answer)
    with pytest.raises(ClusterError, match="the end of instance i-1") as raised:
        Aws(POOL).terminate("i-1")
    assert raised.value.retryable
