"""Publishing, under the name by which the other parts import it."""

from __future__ import annotations

from piecework.airflow.publication import publish, published_content, unpublish

__all__ = ["publish", "published_content", "unpublish"]
