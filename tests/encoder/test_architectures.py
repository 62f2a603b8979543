"""Tests every architecture against torch's, on folders that transformers wrote."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfdistill_jax.checkpoints.model_folder import read_folder, write_folder
from selfdistill_jax.checkpoints.parameter_names import to_tensors
from selfdistill_jax.checkpoints.safetensors import read_tensors
from selfdistill_jax.data.packing import lay_out, write_tokens
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.architectures import ARCHITECTURES
from selfdistill_jax.encoder.cpu.bert import Bert
from selfdistill_jax.errors import InputError
from selfdistill_jax.losses import distributed_margin
from selfdistill_jax.packed import from_mask, one_text_a_row
from tests.encoder.settings import SETTINGS

torch = pytest.importorskip("torch", reason="torch is a peer: make peers")
transformers = pytest.importorskip("transformers")

LENGTHS = np.array([2, 1, 7, 19, 40, 11], np.int32)
MASK = np.arange(40)[None] < LENGTHS[:, None]
# Texts have no padding ids, which torch skips in RoBERTa's positions and does not train.
IDS = np.random.default_rng(0).integers(3, 99, (6, 40)).astype(np.int32)
each = pytest.mark.parametrize("case", SETTINGS)


def hidden_of_torch(model, *, left=False):
    """Returns torch's hidden states, padded on the right or on the left, and the mask."""
    mask, ids = MASK, np.where(MASK, IDS, model.config.pad_token_id)
    given = {}
    if left:
        mask, ids = mask[:, ::-1].copy(), to_the_right(ids)
        if model.config.model_type in ("bert", "electra", "distilbert", "modernbert"):
            # The other models start positions after the padding by themselves.
            given["position_ids"] = torch.tensor(np.maximum(np.cumsum(mask, 1) - 1, 0))
    mask = torch.tensor(mask, dtype=torch.long)
    return model(torch.tensor(ids, dtype=torch.long), mask, **given).last_hidden_state, mask


def unit_of_torch(hidden, mask):
    """Returns mean-pooled unit vectors."""
    pooled = (hidden * mask[..., None]).sum(1) / mask[..., None].sum(1)
    return torch.nn.functional.normalize(pooled)


def to_the_right(ids):
    return np.stack([np.roll(row, 40 - n) for row, n in zip(ids, LENGTHS, strict=True)])


def distributed_of_torch(vectors):
    """Returns the loss of docs/losses.md for queries, positives and negatives, in this order."""
    q, p, n = vectors.reshape(3, 2, -1)
    margin = (q * p).sum(1) - (q * n).sum(1)
    return ((margin[:, None] - (1 + p @ n.T) / 2) ** 2).mean()


def test_every_architecture_is_compared():
    assert {case.split()[0] for case in SETTINGS} == ARCHITECTURES.keys()


@each
def test_hidden_states_and_vectors_are_those_of_torch(models, case):
    model, folder = models(case)
    encoder = read_folder(str(folder))
    assert encoder.max_length == 40 + 2 * (case in ("bert", "electra", "electra of one size"))
    encode = make_encode(encoder.config, pooling="mean")

    @jax.jit
    def both(params, texts):
        return Bert(encoder.config).apply({"params": params}, texts), encode(params, texts)

    for left, texts in (
        (False, one_text_a_row(IDS, LENGTHS)),
        (True, from_mask(to_the_right(IDS), MASK[:, ::-1])),
    ):
        with torch.no_grad():
            expected, mask = hidden_of_torch(model, left=left)
            unit = unit_of_torch(expected, mask).numpy()
        hidden, vectors = both(encoder.params, texts)
        there = mask.numpy() == 1
        hidden = np.asarray(hidden).reshape(expected.shape)
        np.testing.assert_allclose(hidden[there], expected.numpy()[there], atol=2e-5)
        np.testing.assert_allclose(vectors, unit, atol=5e-6)
        assert np.abs(unit @ unit.T - np.eye(6)).max() > 0.01


@each
def test_a_step_is_that_of_torch(models, case):
    """All gradients agree, and so do all tensors after a gradient step of size 1."""
    model, folder = models(case)
    model = copy.deepcopy(model)  # other tests read it
    distributed_of_torch(unit_of_torch(*hidden_of_torch(model))).backward()
    encoder = read_folder(str(folder))
    encode, optimizer = make_encode(encoder.config, pooling="mean"), optax.sgd(1.0)
    rows = one_text_a_row(IDS, LENGTHS)

    def loss(params):
        return distributed_margin(*jnp.split(encode(params, rows), 3))

    @jax.jit
    def step(params):
        gradient = jax.grad(loss)(params)
        updates, _ = optimizer.update(gradient, optimizer.init(params))
        return gradient, optax.apply_updates(params, updates)

    gradient, after = (to_tensors(tree, encoder.config) for tree in step(encoder.params))
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert {name for name in theirs if "pooler" not in name} == gradient.keys()
    for name, value in gradient.items():
        want = theirs[name].numpy()
        np.testing.assert_allclose(
            value, want, atol=3e-5 * max(np.abs(want).max(), 1e-2), err_msg=name
        )
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    for name, value in model.named_parameters():
        if name in after:
            np.testing.assert_allclose(after[name], value.detach(), atol=1e-5, err_msg=name)


@each
def test_a_folder_in_and_out_keeps_every_bit(models, tmp_path, case):
    _, folder = models(case)
    write_folder(tmp_path / "model", read_folder(str(folder)), card="")
    before, after = (read_tensors(f) for f in (folder, tmp_path / "model"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    again = transformers.AutoModel.from_pretrained(tmp_path / "model")
    assert type(again) is type(models(case)[0])


@each
def test_a_checkpoint_with_a_head_is_read_without_it(models, tmp_path, case):
    model, folder = models(case)
    config = model.config
    headed = transformers.AutoModelForMaskedLM.from_config(config)
    getattr(headed, headed.base_model_prefix).load_state_dict(model.state_dict(), strict=False)
    headed.save_pretrained(tmp_path / "headed")
    ours, alone = read_folder(str(tmp_path / "headed")), read_folder(str(folder))
    assert jax.tree.all(jax.tree.map(np.array_equal, ours.params, alone.params))
    assert not any("head" in name or "vocab" in name for name in ours.extra)


@each
def test_random_parameters_have_the_shapes_of_a_folder(models, case):
    encoder = read_folder(str(models(case)[1]))
    made = jax.eval_shape(lambda: init_params(encoder.config, jax.random.key(0)))
    assert jax.tree.map(lambda x: x.shape, made) == jax.tree.map(lambda x: x.shape, encoder.params)


@each
def test_a_missing_key_is_named(models, tmp_path, case):
    _, folder = models(case)
    raw = json.loads((folder / "config.json").read_text())
    name = ARCHITECTURES[raw["model_type"]].keys["num_layers"]
    del raw[name]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=f"key '{name}' is missing; expected a whole number"):
        read_folder(str(tmp_path))


def packed():
    """Returns the texts packed, so that some of them share a row."""
    flat = np.concatenate([row[:n] for row, n in zip(IDS, LENGTHS, strict=True)])
    table = TokenTable(flat, np.concatenate([[0], np.cumsum(LENGTHS)]))
    shape = {"block": 48, "row_lengths": (24, 48)}
    layout = lay_out(LENGTHS, **shape)
    assert len(layout.rows) * 48 < 2 * LENGTHS.sum()
    return write_tokens(layout, [(table, np.arange(6), 40)], blocks=4, **shape)


@each
def test_texts_that_share_rows_have_the_vectors_of_texts_alone(models, case):
    encoder = read_folder(str(models(case)[1]))
    encode = jax.jit(make_encode(encoder.config, pooling="mean"))
    alone = encode(encoder.params, one_text_a_row(IDS, LENGTHS))
    np.testing.assert_allclose(encode(encoder.params, packed()), alone, atol=5e-6)


@pytest.mark.parametrize("case", ["bert", "mpnet", "modernbert"])
def test_attention_of_jax_is_ours(models, case):
    encoder, texts = read_folder(str(models(case)[1])), packed()
    found = []
    for attention in ("own", "xla"):
        encode = make_encode(encoder.config, pooling="mean", attention=attention)

        @jax.jit
        def both(params, encode=encode):
            def loss(params):
                return distributed_margin(*jnp.split(encode(params, texts), 3))

            return encode(params, texts), jax.grad(loss)(params)

        found.append(both(encoder.params))
    (want, gradient), (got, same) = found
    np.testing.assert_allclose(got, want, atol=5e-6)
    for x, y in zip(*map(jax.tree.leaves, (same, gradient)), strict=True):
        np.testing.assert_allclose(x, y, atol=3e-5 * max(np.abs(y).max(), 1e-2))
    # JAX refuses an unknown name, so the setting does reach it.
    encode = make_encode(encoder.config, pooling="mean", attention="none")
    with pytest.raises(ValueError, match="none"):
        encode(encoder.params, texts)
