"""Tests the training of an adapter: the step, and runs from start to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfdistill_jax import BiEncoder, losses
from selfdistill_jax.checkpoints.safetensors import read_tensors
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.lora import apply_lora, init_lora
from selfdistill_jax.errors import InputError
from selfdistill_jax.train.mesh import make_mesh, put_batch, put_state
from selfdistill_jax.train.optimizer import matrices
from selfdistill_jax.train.step import TrainState, make_step
from tests.tiny import ASKED, PLACES, SAID, load_model, metrics, train
from tests.train.every_loss import CONFIG, batch
from tests.train.runs import assert_goes_on, checkpointed

pytestmark = pytest.mark.usefixtures("undrawn")
BASE = jax.device_get(init_params(CONFIG, jax.random.key(0)))
TARGETS = ("query", "value", "outer")
RATE = 100.0  # large, so that even the smallest gradient changes more than a float's last bits


def merge(base, adapter):
    return apply_lora(base, adapter, scale=1.5)


def adapter(seed=1):
    """Returns an adapter whose B is not zero, so that A has a gradient, too."""
    begun = jax.device_get(init_lora(BASE, rank=3, targets=TARGETS, key=jax.random.key(seed)))
    rng = np.random.default_rng(seed)
    return {
        name: {**pair, "b": rng.standard_normal(pair["b"].shape, np.float32)}
        for name, pair in begun.items()
    }


def update(devices=1, parts=1, target=None):
    on = make_mesh(jax.devices()[:devices])
    encode, sgd = make_encode(CONFIG, pooling="mean"), optax.sgd(RATE)
    step = make_step(encode, losses.distributed_margin, sgd, on, merge=merge)
    start = adapter()
    state, base = put_state((TrainState(start, sgd.init(start), target), BASE), on)
    state, numbers = step(state, put_batch(batch(parts=parts), on), base)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(base))
    return jax.device_get((state.params, numbers))


def vectors(params):
    texts = jax.tree.map(lambda x: x[0], batch().inputs)
    return jnp.split(make_encode(CONFIG, pooling="mean")(params, texts), 3)


@pytest.mark.parametrize("target", [None, adapter(7)], ids=["own targets", "another's targets"])
def test_the_update_is_the_adapters_gradient_on_any_mesh(target):
    given = {}
    if target is not None:
        _, *documents = vectors(merge(BASE, target))
        given["target_from"] = tuple(documents)

    def by_hand(own):
        return losses.distributed_margin(*vectors(merge(BASE, own)), **given)

    value, gradient = jax.jit(jax.value_and_grad(by_hand))(adapter())
    expected = jax.tree.map(lambda p, g: p - RATE * g, adapter(), gradient)
    assert all(RATE * np.abs(leaf).max() > 0.01 for leaf in jax.tree.leaves(gradient))
    for devices, parts in ((1, 1), (8, 8), (2, 8)):
        params, numbers = update(devices, parts, target)
        np.testing.assert_allclose(numbers["loss"], value, rtol=1e-5)
        for x, y in zip(*map(jax.tree.leaves, (params, expected)), strict=True):
            np.testing.assert_allclose(x, y, atol=2e-5)


def test_frozen_weights_are_arguments_and_have_no_gradient_in_memory():
    wide = EncoderConfig(50, 64, 2, 2, 1024, 16)
    params = init_params(wide, jax.random.key(0))
    encode, sgd, mesh = make_encode(wide, pooling="mean"), optax.sgd(1.0), make_mesh()
    rows = put_batch(batch(parts=16), mesh)  # two micro-batches each, whose gradients are summed

    def memory(start, base, **options):
        step = make_step(encode, losses.distributed_margin, sgd, mesh, **options)
        state, base = put_state((TrainState(start, sgd.init(start)), base), mesh)
        return step.lower(state, rows, base).compile().memory_analysis()

    begun = init_lora(params, rank=2, targets=("query",), key=jax.random.key(1))
    whole, part = memory(params, None), memory(begun, params, merge=merge)
    frozen = 2 * 4 * 2 * 64 * 1024  # bytes of the feed-forward's two kernels, in both layers
    assert part.argument_size_in_bytes > frozen
    assert whole.temp_size_in_bytes - part.temp_size_in_bytes > 0.9 * frozen
    assert part.output_size_in_bytes < 0.1 * frozen


def test_weight_decay_is_for_both_matrices():
    assert jax.tree.all(matrices(adapter()))


LORA = {
    "encoder__adapter": "lora",
    "encoder__adapter_rank": 6,
    "encoder__adapter_alpha": 48,
    "encoder__adapter_targets": TARGETS,
    "train__learning_rate": 0.03,
}
WORDS = [f"{a} {b} {p}" for a, b, p in zip(ASKED, SAID, 2 * PLACES, strict=True)]


@pytest.fixture(scope="module")
def lora_run(tiny, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lora") / "run"
    assert train(tiny.config(**LORA), workdir) is not None
    return workdir


def test_a_run_learns_by_an_adapter(lora_run):
    records = metrics(lora_run, "train")
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]
    on_dev = [record["nDCG@10"] for record in metrics(lora_run, "dev")]
    assert max(on_dev) > on_dev[0] + 0.1
    assert f"adapter: {lora_run / 'adapter'}" in (lora_run / "result.txt").read_text()
    card = (lora_run / "adapter" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "the best by nDCG@10 on dev" in card


def test_a_checkpoint_holds_the_adapter_and_its_moments_alone(tiny, lora_run):
    assert checkpointed(tiny.config(**LORA), lora_run, 12).keys() == set(TARGETS)
    saved = json.loads((lora_run / "checkpoints" / "12" / "state" / "_METADATA").read_text())
    arrays = {
        tuple(key["key"] for key in leaf["key_metadata"])
        for leaf in saved["tree_metadata"].values()
        if leaf["value_metadata"]["value_type"] != "None"
    }
    own = [(name, letter) for name in TARGETS for letter in "ab"]
    trees = [("params",), ("optimizer", "1", "mu"), ("optimizer", "1", "nu")]
    assert {path for path in arrays if path[-1] not in ("count", "rate", "rates")} == {
        (*tree, *leaf) for tree in trees for leaf in own
    }


def test_only_the_targets_of_the_model_change(tiny, lora_run):
    before, after = (read_tensors(folder) for folder in (tiny.encoder, lora_run / "model"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    modules = ("attention.self.query", "attention.self.value", "output.dense")
    assert changed == {f"encoder.layer.{i}.{m}.weight" for i in (0, 1) for m in modules}


def test_the_model_is_base_and_adapter(tiny, lora_run):
    """Merged weights and vectors are those of the base with its adapter."""
    merged = BiEncoder.load(str(lora_run / "model"))
    added = BiEncoder.load(str(tiny.encoder), adapter=lora_run / "adapter")
    for x, y in zip(
        *map(jax.tree.leaves, (merged.encoder.params, added.encoder.params)), strict=True
    ):
        np.testing.assert_allclose(x, y, atol=1e-6)
    ours = merged.encode(WORDS)
    np.testing.assert_allclose(added.encode(WORDS), ours, atol=2e-6)
    assert np.abs(ours - BiEncoder.load(str(tiny.encoder)).encode(WORDS)).max() > 0.1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_the_adapter_by_peft_has_the_models_vectors(tiny, lora_run):
    torch = pytest.importorskip("torch", reason="torch is a peer: make peers")
    peft = pytest.importorskip("peft", reason="peft is a peer: make peers")
    transformers = pytest.importorskip("transformers")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    base = transformers.AutoModel.from_pretrained(tiny.encoder)
    adapted = peft.PeftModel.from_pretrained(base, lora_run / "adapter").eval()
    opened = sentence_transformers.SentenceTransformer(str(lora_run / "model"), device="cpu")
    features = opened.tokenize(WORDS)
    with torch.no_grad():
        hidden = adapted(features["input_ids"], features["attention_mask"]).last_hidden_state
    mask = features["attention_mask"][..., None]
    theirs = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    ours = BiEncoder.load(str(lora_run / "model")).encode(WORDS)
    np.testing.assert_allclose(theirs, ours, atol=5e-6)
    np.testing.assert_allclose(opened.encode(WORDS), ours, atol=5e-6)
    plain = sentence_transformers.SentenceTransformer(str(tiny.encoder), device="cpu")
    plain.load_adapter(str(lora_run / "adapter"))
    np.testing.assert_allclose(plain.encode(WORDS), ours, atol=5e-6)


@pytest.mark.parametrize("target", ["model", "ema", "start"])
def test_interrupted_equals_uninterrupted(tiny, lora_run, tmp_path, target):
    config, whole = tiny.config(**LORA), lora_run
    if target != "model":
        config = tiny.config(**LORA, train__target=target, train__target_decay=0.8, train__steps=6)
        whole = tmp_path / "whole"
        train(config, whole)
    assert_goes_on(config, tmp_path / "parts", whole)


def test_start_targets_are_the_frozen_encoders(tiny, lora_run, tmp_path):
    """A new adapter changes nothing, so at the first step its own targets are the frozen ones."""
    config = tiny.config(**LORA, train__target="start", train__steps=2)
    train(config, tmp_path)
    of_start, of_own = (metrics(run, "train") for run in (tmp_path, lora_run))
    np.testing.assert_allclose(of_start[0]["target_mean"], of_own[0]["target_mean"], rtol=1e-6)
    assert of_start[0]["gradient_norm"] != of_own[0]["gradient_norm"]


def test_another_adapter_in_the_same_folder_is_refused(tiny, lora_run):
    changed = LORA | {"encoder__adapter_rank": 4, "encoder__adapter_targets": ("query",)}
    with pytest.raises(InputError) as caught:
        train(tiny.config(**changed), lora_run)
    message = str(caught.value)
    assert "encoder.adapter_rank is 6 there and 4 here" in message
    assert "adapter_targets is ['query', 'value', 'outer'] there and ['query'] here" in message


def test_targets_are_named_with_commas_on_the_command_line(tiny):
    written = tiny.config(**LORA | {"encoder__adapter_targets": ("query, value,outer",)})
    assert load_model(written).trained.start.keys() == set(TARGETS)


def test_an_unknown_target_is_named(tiny, tmp_path):
    with pytest.raises(InputError, match=r"adapter_targets has 'querry'; expected .* query"):
        train(tiny.config(encoder__adapter_targets=("querry",)), tmp_path / "run")
