"""Tests the model's card as the hub's own client reads it, and its gaps where facts are unknown."""

import json

import pytest
from huggingface_hub import ModelCard

from selfdistill_jax.checkpoints.model_card import model_card, set_evaluation
from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.retrieval.evaluation import MEASURES
from selfdistill_jax.train.run_folder import flatten


def card(tiny, readme=None, *, init=None, folder=None, name="tiny"):
    encoder = read_folder(str(tiny.encoder))
    if readme is not None:
        (folder / "README.md").write_text(readme)
    settings = flatten(tiny.config(**{"encoder__init": init} if init else {}).to_dict())
    encoder = encoder._replace(folder=folder)
    text = model_card(settings, collection=name, encoder=encoder, note="good")
    return ModelCard(text, ignore_metadata_errors=False)


def test_card_of_a_finished_run(finished):
    found = ModelCard.load(finished / "model" / "README.md")
    means = json.loads((finished / "eval" / "results.test.json").read_text())["means"]["trained"]
    results = {r.metric_name: r for r in found.data.eval_results}
    assert {name: r.metric_value for name, r in results.items()} == means
    assert {(r.dataset_name, r.dataset_split) for r in results.values()} == {("tiny", "test")}
    assert results[MEASURES[0]].metric_type == "ndcg_at_10"
    assert found.data.library_name == "sentence-transformers"
    # A local folder is not a valid id on the hub.
    assert found.data.base_model is None
    assert "# encoder trained on tiny" in found.text


def test_base_model_is_a_hub_id(tiny, tmp_path):
    assert card(tiny, init="owner/encoder", folder=tmp_path).data.base_model == "owner/encoder"


@pytest.mark.parametrize(
    ("readme", "keys"),
    [
        ("---\nlicense: apache-2.0\nlanguage: en\n---\n# A", {"license": "apache-2.0"}),
        (
            "---\nlicense: other\nlicense_name: own\nlicense_link: https://x.org\n---\n",
            {"license": "other", "license_name": "own", "license_link": "https://x.org"},
        ),
        ("---\nlicense: [a, b]\n---\n", {}),
        ("---\nlicense: {\n---\n", {}),
        ("---\n- license\n---\n", {}),
        ("# no front matter", {}),
        (None, {}),
    ],
)
def test_licence_is_that_of_the_start_encoder(tiny, tmp_path, readme, keys):
    found = card(tiny, readme, folder=tmp_path)
    written = {k: v for k, v in found.data.to_dict().items() if k.startswith("license")}
    assert written == keys
    assert ("(its folder names none)" in found.text) == (not keys)
    (tmp_path / "LICENSE").write_text("Mine.")
    assert ("(in LICENSE)" in card(tiny, readme, folder=tmp_path).text) == (not keys)


def test_names_that_mean_something_in_yaml(tiny, tmp_path):
    """Setting the figures at the end of a run changes nothing else in the card."""
    before = card(tiny, folder=tmp_path, name="- a: #b")
    path = tmp_path / "README.md"
    path.write_text(before.content)
    for note in ("first", "**better** \\1"):
        set_evaluation(path, note, means={"MRR@10": 0.5}, collection="- a: #b", split="dev")
    found = ModelCard(path.read_text(), ignore_metadata_errors=False)
    (result,) = found.data.eval_results
    assert (result.dataset_name, result.dataset_split) == ("- a: #b", "dev")
    assert (result.metric_type, result.metric_value) == ("mrr_at_10", 0.5)
    assert found.text == before.text.replace("Evaluation: good", "Evaluation: **better** \\1")
