"""Training of a prefix: the step, and runs from start to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfdistill_jax import BiEncoder, evaluate, losses
from selfdistill_jax.checkpoints.peft_prefix import read_prefix
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.prefix import apply_prefix
from selfdistill_jax.errors import InputError
from selfdistill_jax.train.job import load_encoder
from selfdistill_jax.train.optimizer import matrices
from selfdistill_jax.train.step import TrainState, make_mesh, make_step, put_batch, put_state
from tests.tiny import ASKED, PLACES, SAID, content, metrics, train
from tests.train.every_loss import CONFIG, batch
from tests.train.runs import assert_goes_on, checkpointed

pytestmark = pytest.mark.usefixtures("undrawn")
BASE = jax.device_get(init_params(CONFIG, jax.random.key(0)))
COUNT = 4
RATE = 100.0  # so that the smallest gradient moves more than a float's last bits
PREFIX = {
    "encoder__adapter": "prefix",
    "encoder__adapter_tokens": COUNT,
    "encoder__max_length": 0,
    "encoder__query_prompt": "the ",  # which tiny has none of
    "train__learning_rate": 1.0,
}
WORDS = [f"{a} {b} {p}" for a, b, p in zip(ASKED, SAID, 2 * PLACES, strict=True)]


def prefix():
    shape = (2, CONFIG.num_layers, COUNT, CONFIG.hidden_size)
    key, value = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return {"key": key, "value": value}


def update(devices, parts):
    on = make_mesh(jax.devices()[:devices])
    encode, sgd = make_encode(CONFIG, pooling="mean"), optax.sgd(RATE)
    step = make_step(encode, losses.distributed_margin, sgd, on, merge=apply_prefix)
    start = prefix()
    state, base = put_state((TrainState(start, sgd.init(start)), BASE), on)
    state, numbers = step(state, put_batch(batch(parts=parts), on), base)
    return jax.device_get((state.params, numbers))


def test_the_update_is_the_prefixs_gradient_on_any_mesh():
    texts = jax.tree.map(lambda x: x[0], batch().texts)
    encode = make_encode(CONFIG, pooling="mean")

    def by_hand(own):
        base = jax.tree.map(jnp.asarray, BASE)
        return losses.distributed_margin(*jnp.split(encode(apply_prefix(base, own), texts), 3))

    value, gradient = jax.jit(jax.value_and_grad(by_hand))(prefix())
    expected = jax.tree.map(lambda p, g: p - RATE * g, prefix(), gradient)
    assert all(RATE * np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(gradient))
    for devices, parts in ((1, 1), (8, 8), (2, 8)):
        params, numbers = update(devices, parts)
        np.testing.assert_allclose(numbers["loss"], value, rtol=1e-5)
        for x, y in zip(*map(jax.tree.leaves, (params, expected)), strict=True):
            np.testing.assert_allclose(x, y, atol=2e-5)


def test_a_prefix_does_not_decay():
    assert not any(jax.tree.leaves(matrices(prefix())))


@pytest.fixture(scope="module")
def prefix_run(tiny, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("prefix") / "run"
    assert train(tiny.config(**PREFIX), workdir) is not None
    return workdir


def test_a_run_learns_by_a_prefix_and_leaves_it_alone(tiny, prefix_run):
    records = metrics(prefix_run, "train")
    assert records[-1]["loss"] < 0.7 * records[0]["loss"]
    assert not (prefix_run / "model").exists()
    text = (prefix_run / "result.txt").read_text()
    use = f"use it: --model={tiny.encoder} --adapter={prefix_run / 'adapter'}\n"
    assert f"\nadapter: {prefix_run / 'adapter'}\n{use}report: " in text
    assert "is what adapter/ holds" in (prefix_run / "report.html").read_text()
    card = (prefix_run / "adapter" / "README.md").read_text()
    assert "library_name: peft" in card
    assert f"the 4 keys and values that were trained for\neach layer of {tiny.encoder}" in card
    assert "texts cut at 12 tokens" in card
    assert "encoder.adapter_tokens = 4" in card


def test_a_checkpoint_holds_the_prefix_and_its_moments_alone(tiny, prefix_run):
    last = checkpointed(tiny.config(**PREFIX), prefix_run, 12)
    assert {name: value.shape for name, value in last.items()} == {
        "key": (2, COUNT, 16), "value": (2, COUNT, 16)
    }  # fmt: skip
    saved = json.loads((prefix_run / "checkpoints" / "12" / "state" / "_METADATA").read_text())
    arrays = {
        tuple(key["key"] for key in leaf["key_metadata"])
        for leaf in saved["tree_metadata"].values()
        if leaf["value_metadata"]["value_type"] != "None"
    }
    trees = [("params",), ("optimizer", "1", "0", "mu"), ("optimizer", "1", "0", "nu")]
    assert {path for path in arrays if path[-1] != "count"} == {
        (*tree, name) for tree in trees for name in ("key", "value")
    }


def test_what_is_reported_is_base_and_adapter_of_the_best_step(tiny, prefix_run, start, tmp_path):
    """As the command evaluates them, which knows of the run no more than the folder."""
    given = [f"--model={tiny.encoder}", f"--adapter={prefix_run / 'adapter'}"]
    given += [f"--dataset={tiny.collection}", f"--output={tmp_path}", "--k=100"]
    assert start(evaluate, *given)[0] == 0
    folders = tmp_path / "tiny", prefix_run / "eval"
    found, want = (json.loads((x / "results.test.json").read_text())["means"] for x in folders)
    assert found["model"] == want["trained"] != want["start"]
    on_dev = {record["step"]: record["nDCG@10"] for record in metrics(prefix_run, "dev")}
    best = max(on_dev, key=lambda step: (on_dev[step], -step))
    assert best > 0
    config = tiny.config(**PREFIX)
    kept = read_prefix(prefix_run / "adapter", load_encoder(config).config)
    same = jax.tree.map(np.array_equal, kept, checkpointed(config, prefix_run, 12))
    assert jax.tree.all(same) == (best == 12)
    model = BiEncoder.load(str(tiny.encoder), adapter=prefix_run / "adapter")
    assert model.encoder.max_length == 16 - COUNT
    assert [model.encoder.prompts.of(kind) for kind in ("query", "document")] == ["the ", ""]
    assert np.abs(model.encode(WORDS) - BiEncoder.load(str(tiny.encoder)).encode(WORDS)).max() > 0.1
    with pytest.raises(InputError, match="an encoder with a prefix cannot be written as a model"):
        model.save(prefix_run.parent / "model")
    assert not (prefix_run.parent / "model").exists()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_the_adapter_by_peft_has_the_same_vectors(tiny, prefix_run):
    torch = pytest.importorskip("torch", reason="torch is a peer: make peers")
    peft = pytest.importorskip("peft", reason="peft is a peer: make peers")
    transformers = pytest.importorskip("transformers")
    base = transformers.AutoModel.from_pretrained(tiny.encoder)
    adapted = peft.PeftModel.from_pretrained(base, prefix_run / "adapter").eval()
    model = BiEncoder.load(str(tiny.encoder), adapter=prefix_run / "adapter")
    longest = "mabo " * 40  # cut where the positions end
    ours = model.encode([*WORDS, longest])
    for text, vector in zip([*WORDS, longest], ours, strict=True):
        (ids,) = model.tokenizer.encode([text], limit=model.encoder.max_length)
        with torch.no_grad():
            hidden = adapted(torch.tensor(np.asarray(ids)[None], dtype=torch.long))
        theirs = torch.nn.functional.normalize(hidden.last_hidden_state.mean(1))[0]
        np.testing.assert_allclose(theirs, vector, atol=5e-6)


@pytest.mark.parametrize("target", ["model", "ema", "start"])
def test_interrupted_equals_uninterrupted(tiny, prefix_run, tmp_path, target):
    config, whole = tiny.config(**PREFIX), prefix_run
    if target != "model":
        changed = {"train__target": target, "train__target_decay": 0.8, "train__steps": 6}
        config, whole = tiny.config(**PREFIX, **changed), tmp_path / "whole"
        train(config, whole)
    assert_goes_on(config, tmp_path / "parts", whole)


def test_what_a_prefix_cannot_be_trained_with_is_named(tiny, tmp_path):
    for wrong, message in (
        ({"train__attention": "xla"}, "config.train.attention is 'xla', which takes no prefix"),
        ({"encoder__adapter_tokens": 0}, "config.encoder.adapter_tokens is 0; expected 1 or more"),
        (
            {"encoder__adapter_tokens": 14},
            "encoder: a prefix of 14 leaves 2 of the encoder's 16 positions to a text",
        ),
        (
            {"encoder__max_length": 15},
            "config.encoder.max_length is 15; .*encoder has 12 positions left by a prefix of 4",
        ),
        ({"data__document_length": 15}, "config.data.document_length is 15; .* reads 12 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            train(tiny.config(**PREFIX | wrong), tmp_path / "run")
        assert not (tmp_path / "run").exists(), wrong


def test_nothing_better_than_the_untrained_prefix_is_said(tiny, tmp_path):
    config = tiny.config(**PREFIX | {"train__learning_rate": 1e-9}, train__steps=1)
    assert "better than the first: adapter/ is the untrained" in train(config, tmp_path / "run")
    assert "adapter_config.json" in content(tmp_path / "run" / "adapter")
