"""Tests that committed studies have readable definitions, and pages that follow from tables."""

from pathlib import Path

import pytest

from selfdistill_jax.cli.config_flag import load_config
from selfdistill_jax.study.definition import read_study
from selfdistill_jax.study.page import write_page
from selfdistill_jax.study.table import RUNS, Table
from selfdistill_jax.train.loss import make_loss

STUDIES = sorted(Path("studies").glob("[a-z]*.py"))
STUDIES = [path for path in STUDIES if "METHODS" in path.read_text()]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_page_follows_from_its_table(path, tmp_path):
    folder = Path("docs/studies") / path.stem
    text = write_page(read_study(path), Table(folder / RUNS), tmp_path)
    assert text == (folder / "README.md").read_text()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_method_of_a_study_has_a_config_and_a_loss(path):
    study = read_study(path)
    for settings in study.methods.values():
        for tuned in study.grid():
            rest = study.settings | settings | tuned
            loss = rest.pop("loss.name")
            config = load_config(Path("configs/base.py"), loss, rest)
            make_loss(loss, {k: v for k, v in config.loss.items() if k != "name"})
