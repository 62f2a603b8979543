"""Tests that studies have valid definitions, and that their pages follow from their tables."""

import shutil
from pathlib import Path

import pytest

from selfdistill_jax import BiEncoder
from selfdistill_jax.cli.config_flag import load_config
from selfdistill_jax.study.definition import read_study
from selfdistill_jax.study.page import write_page
from selfdistill_jax.study.runs import execute
from selfdistill_jax.study.table import RUNS, Table
from selfdistill_jax.train.loss import make_loss
from studies.score_triplets import write_scored_triplets

STUDIES = sorted(Path("studies").glob("[a-z]*.py"))
STUDIES = [path for path in STUDIES if "METHODS" in path.read_text()]
PAGES = Path("docs/studies")
BEGUN = [path for path in STUDIES if (PAGES / path.stem / RUNS).exists()]


def test_every_table_has_a_definition():
    assert {path.parent.name for path in PAGES.glob("*/" + RUNS)} <= {p.stem for p in STUDIES}


@pytest.mark.parametrize("path", BEGUN, ids=lambda path: path.stem)
def test_a_page_follows_from_its_table(path, tmp_path):
    folder = PAGES / path.stem
    text = write_page(read_study(path), Table(folder / RUNS), tmp_path)
    assert text == (folder / "README.md").read_text()


def make_config(settings):
    rest = {key: value for key, value in settings.items() if key != "loss.name"}
    return load_config(Path("configs/base.py"), settings["loss.name"], rest)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_method_of_a_study_has_a_config_and_a_loss(path):
    study = read_study(path)
    for method, settings in study.methods.items():
        for tuned in study.grid(method):
            config = make_config(study.settings | settings | tuned)
            loss = config.loss.name
            make_loss(loss, {k: v for k, v in config.loss.items() if k != "name"})


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_runs_with_a_tiny_encoder(path, tiny, tmp_path):
    study = read_study(path)
    method, settings = list(study.methods.items())[-1]
    small = {k: v for k, v in tiny.settings.items() if k != "data.dataset"}
    small |= {"train.steps": 2, "train.evaluate_every": 2}
    study = study._replace(
        collections=("tiny",),
        settings={},
        methods={method: study.settings | settings | small},
        tuned={},
        own_tuned={},
        seeds=(0,),
        baseline=method,
    )
    shutil.copytree(tiny.collection, tmp_path / "tiny")
    if "data.triplets" in settings:
        share = float(settings["data.triplets"].removeprefix("teacher-").removesuffix(".jsonl"))
        teacher = BiEncoder.load(tiny.settings["encoder.init"])
        write_scored_triplets(teacher, tmp_path / "tiny", [share])
    table = Table(tmp_path / RUNS)
    assert execute(study, table, make_config, data=tmp_path, work=tmp_path / "work")
    (result,) = table.results.values()
    assert result.texts["error"] == ""
    assert len(result.values) == 8
    text = write_page(study, table, tmp_path)
    assert f"| {method}" in text
    assert "1 of 1 tested runs" in text
