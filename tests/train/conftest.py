"""Fixtures for tests of whole runs."""

import pytest

from selfdistill_jax.report import html
from selfdistill_jax.train import run


@pytest.fixture
def undrawn(finished, monkeypatch):
    """Leaves out the report and its measurements, each at least a fifth of a short run.

    ``finished`` has both.
    """
    monkeypatch.setattr(html, "write_html", lambda *_: None)
    monkeypatch.setattr(run, "matmul_rate", lambda dtype: 1e9)
