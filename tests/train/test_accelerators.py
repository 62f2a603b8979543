"""Tests the accelerators' layout on a CPU: rows of one length, and a batch in one block."""

import dataclasses
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfdistill_jax import losses
from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.data import encoding_batches
from selfdistill_jax.data.packing import lay_out, row_cost
from selfdistill_jax.encoder.apply import make_encode
from selfdistill_jax.retrieval import encode_corpus
from selfdistill_jax.train.data import dataset
from selfdistill_jax.train.mesh import make_mesh, put_batch
from selfdistill_jax.train.step import make_step, start_state
from tests.tiny import SIZES, load_batches, load_model, metrics, train, write_encoder


@pytest.fixture
def merging(monkeypatch):
    for module in (encode_corpus, dataset):
        monkeypatch.setattr(module, "on_accelerator", lambda: True)


@pytest.mark.parametrize("backend", ["plain", "cpu"])
def test_a_run_is_the_same_but_for_how_texts_are_laid_out(
    tiny, finished, merging, tmp_path, backend
):
    """The layouts agree on eight devices, with either backend of the encoder."""
    config = tiny.config(encoder__backend=backend)
    batches = load_batches(config)
    assert batches.shape.merged == 1
    assert len(batches.shape.row_lengths) == 1
    train(config, tmp_path / "run")
    folders = tmp_path / "run", finished
    ours, theirs = ({(r["kind"], r["step"]): r for r in metrics(run)} for run in folders)
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        for name in ("loss", "gradient_norm", "nDCG@10"):
            if name in one:
                assert one[name] == pytest.approx(theirs[key][name], rel=1e-3), (key, name)


def test_a_run_with_the_tpu_kernel_is_that_with_plain_attention(tiny, tmp_path):
    """Ten steps of a whole run, with the kernel's instructions interpreted."""
    sizes = dataclasses.replace(SIZES, hidden_size=128, num_heads=4)
    encoder = write_encoder(tmp_path / "encoder", sizes)
    program = [sys.executable, "-m", "tests.train.kernel_run"]
    runs = {}
    for attention in ("pallas", "own"):
        arguments = [attention, encoder, tiny.collection, tmp_path / attention]
        subprocess.run([*program, *map(str, arguments)], check=True, capture_output=True)
        runs[attention] = metrics(tmp_path / attention)
    assert sum(record["kind"] == "train" for record in runs["own"]) == 10
    for ours, theirs in zip(runs["pallas"], runs["own"], strict=True):
        for name in ("loss", "gradient_norm", "nDCG@10"):
            if name in ours:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-3), (ours["step"], name)
    ours, theirs = (read_folder(str(tmp_path / a / "model")).params for a in runs)
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("blocks", [1, 3])
def test_many_texts_have_the_same_vectors(tiny, merging, monkeypatch, blocks):
    """Vectors do not depend on the room for texts, even if a batch does not fit."""
    from selfdistill_jax import BiEncoder

    model = BiEncoder.load(tiny.encoder)
    words = ["hasit", "vokel", "jurad", "gimon", "mabo", "the", "of", "and"]
    texts = [" ".join(words[: 1 + i % 8]) for i in range(300)]
    monkeypatch.setattr(encoding_batches, "_CAPACITIES", (64, 128))
    if blocks > 1:
        whole = encode_corpus.choose_capacity

        def too_small(lengths, **options):
            capacity, parts = whole(lengths, **options)
            return capacity._replace(block=capacity.row_lengths[-1]), parts

        monkeypatch.setattr(encode_corpus, "choose_capacity", too_small)
    found = model.encode(texts)
    monkeypatch.undo()
    np.testing.assert_allclose(found, BiEncoder.load(tiny.encoder).encode(texts), atol=1e-6)


def test_texts_are_split_by_length_where_that_saves_more_than_compiling(monkeypatch):
    lengths = np.array([0, 5, 300, 100, 600, 256, 512])

    def split(compiling):
        monkeypatch.setattr(encoding_batches, "_COMPILING", compiling)
        return [rows.tolist() for rows in encoding_batches.split_by_length(lengths)]

    # 361 tokens gain rows of 256 instead of 600, and 812 tokens rows of 512.
    first, second = (
        tokens * (row_cost(600) - row_cost(limit)) for tokens, limit in ((361, 256), (812, 512))
    )
    assert second < first
    assert split(0.99 * second) == [[0, 1, 3, 5], [2, 6], [4]]
    assert split(0.99 * first) == [[0, 1, 3, 5], [2, 4, 6]]
    assert split(1.01 * first) == [[0, 1, 2, 3, 4, 5, 6]]
    assert [len(x) for x in encoding_batches.split_by_length(np.zeros(3, int))] == [3]


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: np.minimum(rng.lognormal(4.2, 0.5, 40_000).astype(int) + 3, 512),
        lambda rng: np.minimum(rng.lognormal(2.0, 0.4, 200_000).astype(int) + 3, 32),
        lambda rng: rng.integers(3, 200, 30_000),
        lambda rng: np.full(20_000, 100),
        lambda rng: np.where(rng.random(20_000) < 0.5, 20, 480),
    ],
    ids=["passages", "queries", "uniform", "equal", "two lengths"],
)
def test_batches_for_accelerators_are_filled_and_none_needs_a_second_block(draw):
    """A batch that does not fit would be computed with twice the rows, by another program."""
    lengths = draw(np.random.default_rng(0))
    capacity, parts = encoding_batches.choose_capacity(
        lengths, limit=512, parts=4, accelerator=True
    )
    order = np.argsort(-lengths, kind="stable")
    (row,) = capacity.row_lengths
    for i in range(0, parts, max(parts // 16, 1)):
        layout = lay_out(lengths[order[i::parts]], block=row, row_lengths=(row,))
        assert len(layout.rows) * row <= capacity.blocks * capacity.block
    useful = lengths.sum() / parts / (capacity.blocks * capacity.block)
    best = 0.78 if lengths.min() == lengths.max() else 0.9  # rows of 512 hold five texts of 100
    assert useful > best


@pytest.mark.parametrize("compiling", [0, 1e9])
def test_a_split_collection_has_the_same_vectors(tiny, merging, monkeypatch, compiling):
    from selfdistill_jax import BiEncoder

    model = BiEncoder.load(tiny.encoder)
    words = ["hasit", "vokel", "jurad", "gimon", "mabo", "the", "of", "and"]
    texts = [" ".join(words[: 1 + 5 * i % 8]) for i in range(60)]
    monkeypatch.setattr(encoding_batches, "_SHORT", 4)
    monkeypatch.setattr(encoding_batches, "_COMPILING", compiling)
    found = model.encode(texts)
    monkeypatch.undo()
    np.testing.assert_allclose(found, BiEncoder.load(tiny.encoder).encode(texts), atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_host_is_not_asked_within_a_step(tiny, merging, platform):
    """No branch depends on a value, and there is one loop over the layers each way."""
    config = tiny.config()
    encoder = load_model(config).pretrained
    batches = load_batches(config)
    optimizer, mesh = optax.adamw(1e-3), make_mesh()
    encode = make_encode(encoder.config, pooling=encoder.pooling, dtype=jnp.bfloat16)
    step = make_step(encode, losses.distributed_margin, optimizer, mesh)
    state = start_state(encoder.params, optimizer, mesh, target=False)
    traced = step.trace(state, put_batch(batches[0], mesh))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    # The compiler chooses a platform's branch, since it depends on a constant: one case of a
    # constant gives the platform's number, and one case of that number gives the branch.
    numbers = set(re.findall(r'%(\w+) = "stablehlo.case"\(%c\w*\)', text))
    chosen_by = set(re.findall(r'"stablehlo.case"\(%(\w+)\)', text))
    assert {name for name in chosen_by if not name.startswith("c")} <= numbers
    assert "stablehlo.if" not in text
    assert text.count("stablehlo.while") == 2
