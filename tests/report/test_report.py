"""Tests that the report command rebuilds a run's pages from its folder alone."""

import shutil

import pytest

from selfdistill_jax.report import __main__ as report
from tests.tiny import content, fails


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_the_pages_of_a_run_are_made_anew(start, run, tmp_path):
    before = content(run)
    pages = ["result.txt", "report.html", "model/README.md"]
    for name in pages[:2]:
        (run / name).unlink()
    (run / "eval" / "start.test.trec").unlink()  # not needed
    status, out, err = start(report, str(run))
    after = content(run)
    assert (status, err) == (0, "")
    assert after["result.txt"].decode() == out
    # The text names the folder.
    assert (
        out.replace(str(run), "RUN").splitlines()[:8]
        == (before["result.txt"].decode().splitlines()[:8])
    )
    assert after["model/README.md"] == before["model/README.md"]
    assert after["report.html"].count(b"<svg") == before["report.html"].count(b"<svg")


@pytest.mark.parametrize("name", ["finished.json", "config.json", "eval/queries.test.json"])
def test_what_is_missing_is_named(start, run, name):
    (run / name).unlink()
    before = content(run)
    assert fails(start(report, str(run)), f"{run}")
    assert name.rpartition("/")[2] in start(report, str(run))[2]
    assert content(run) == before


def test_no_run(start, tmp_path):
    assert fails(start(report), "no run given; name the folder")
    assert fails(start(report, str(tmp_path / "none")), f"{tmp_path}/none: no finished.json")
