"""Tests the Flax encoder against torch's on the same files."""

import json

import jax
import numpy as np
import pytest

from selfdistill_jax.checkpoints.model_folder import Pretrained, read_folder, write_folder
from selfdistill_jax.checkpoints.parameter_names import to_params, to_tensors
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.pooling import POOLINGS
from selfdistill_jax.errors import InputError
from selfdistill_jax.packed import one_text_a_row

TINY = EncoderConfig(99, 32, 2, 4, 64, 40)
RAW = {
    "model_type": "bert",
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


@pytest.fixture
def tiny(tmp_path):
    params = jax.tree.map(np.asarray, init_params(TINY, jax.random.key(0)))
    encoder = Pretrained(tmp_path, TINY, RAW, params, {}, "mean", 40)
    write_folder(tmp_path / "model", encoder, card="A test.")
    return tmp_path / "model"


LENGTHS = np.array([1, 2, 7, 19, 40], np.int32)
MASK = np.arange(40)[None] < LENGTHS[:, None]
IDS = np.random.default_rng(0).integers(0, 99, (5, 40)).astype(np.int32)


def rows():
    return one_text_a_row(IDS, LENGTHS)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_those_of_torch(tiny, pooling):
    torch = pytest.importorskip("torch", reason="torch is a peer: make peers")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(tiny, add_pooling_layer=False).eval()
    with torch.no_grad():
        hidden = model(
            torch.tensor(IDS, dtype=torch.long), torch.tensor(MASK, dtype=torch.long)
        ).last_hidden_state.numpy()
    expected = {
        "cls": hidden[:, 0],
        "mean": (hidden * MASK[..., None]).sum(1) / MASK.sum(1, keepdims=True),
        "max": np.where(MASK[..., None], hidden, -np.inf).max(1),
        "last": hidden[np.arange(len(LENGTHS)), LENGTHS - 1],
    }[pooling]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    encode = make_encode(TINY, pooling=pooling)
    got = jax.jit(encode)(read_folder(str(tiny)).params, rows())
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_padding_does_not_change_a_vector():
    params = init_params(TINY, jax.random.key(1))
    encode = jax.jit(make_encode(TINY, pooling="mean"))
    garbage = one_text_a_row(np.where(MASK, IDS, 7), LENGTHS)
    np.testing.assert_array_equal(encode(params, rows()), encode(params, garbage))
    short = one_text_a_row(IDS[:3, :7], LENGTHS[:3])
    np.testing.assert_allclose(encode(params, short), encode(params, rows())[:3], atol=1e-6)


def test_weights_of_another_shape_or_number_are_named():
    name, table = "encoder.layer.1.output.dense.bias", "embeddings.word_embeddings.weight"
    tensors = to_tensors(init_params(TINY, jax.random.key(0)), TINY)
    with pytest.raises(InputError, match=rf"'{table}' has shape \[98, 32\].*\[99, 32\]"):
        to_params({**tensors, table: np.zeros((98, 32))}, TINY, where="x")
    del tensors[name]
    with pytest.raises(InputError, match=f"{name}.*missing"):
        to_params(tensors, TINY, where="x")


def test_other_architectures_are_named(tiny):
    (tiny / "config.json").write_text(json.dumps({**RAW, "model_type": "t5"}))
    with pytest.raises(InputError, match="model_type is 't5'"):
        read_folder(str(tiny))
