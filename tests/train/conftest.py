"""What tests of whole runs have in common."""

import pytest

from selfdistill_jax.report import html
from selfdistill_jax.train import run


@pytest.fixture
def undrawn(finished, monkeypatch):
    """Leaves out the report and what is measured for it, each a fifth of a short run and more;
    ``finished`` has both."""
    monkeypatch.setattr(html, "write_html", lambda *_: None)
    monkeypatch.setattr(run, "matmul_rate", lambda dtype: 1e9)
