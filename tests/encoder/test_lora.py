"""Tests LoRA against its definition: what an adapter adds, where, and its initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfdistill_jax.checkpoints.parameter_names import to_tensors
from selfdistill_jax.encoder.apply import init_params
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.lora import TARGETS, apply_lora, init_lora

CONFIG = EncoderConfig(50, 16, 3, 2, 24, 12)
# Hugging Face's names, which tell the thirds of our fused kernel apart.
NAMES = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "output": "attention.output.dense", "inner": "intermediate.dense", "outer": "output.dense",
}  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, init_params(CONFIG, jax.random.key(0)))


def trained(params, targets, rank=4):
    """Returns an adapter whose B is not zero."""
    adapter = init_lora(params, rank=rank, targets=targets, key=jax.random.key(1))
    keys = dict(zip(targets, jax.random.split(jax.random.key(2), len(targets)), strict=True))
    return {
        name: {**pair, "b": jax.random.normal(keys[name], pair["b"].shape)}
        for name, pair in adapter.items()
    }


@pytest.mark.parametrize("targets", [[name] for name in TARGETS] + [["value", "query"]])
def test_only_the_targets_change_and_by_scale_a_b(params, targets):
    adapter = trained(params, targets)
    before = to_tensors(params, CONFIG)
    after = to_tensors(apply_lora(params, adapter, scale=0.5), CONFIG)
    assert before.keys() == after.keys()
    for name, value in before.items():
        added = np.zeros_like(value)
        for role in targets:
            for layer in range(CONFIG.num_layers):
                if name == f"encoder.layer.{layer}.{NAMES[role]}.weight":
                    a, b = (np.asarray(adapter[role][part][layer]) for part in "ab")
                    added = 0.5 * (a @ b).T
                    assert np.abs(added).max() > 0.1
        if added.any():
            np.testing.assert_allclose(after[name], value + added, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_merging_in_numpy_is_applying_on_devices(params):
    adapter = trained(params, list(TARGETS))
    merged = apply_lora(params, jax.device_get(adapter), scale=2.0)
    applied = jax.jit(lambda p, a: apply_lora(p, a, scale=2.0))(params, adapter)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(merged))
    for x, y in zip(*map(jax.tree.leaves, (merged, applied)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_a_new_adapter_changes_nothing(params):
    adapter = init_lora(params, rank=64, targets=list(TARGETS), key=jax.random.key(0))
    effective = apply_lora(params, jax.device_get(adapter), scale=8.0)
    assert jax.tree.all(jax.tree.map(np.array_equal, effective, params))
    for name, pair in adapter.items():
        inputs = CONFIG.intermediate_size if name == "outer" else CONFIG.hidden_size
        bound = inputs**-0.5
        assert 0.9 * bound < np.abs(pair["a"]).max() <= bound
        # A uniform distribution's variance is a third of its squared bound. Layers differ.
        np.testing.assert_allclose(np.square(pair["a"]).mean(), bound**2 / 3, rtol=0.1)
        assert not np.allclose(pair["a"][0], pair["a"][1])


def test_what_a_target_begins_with_does_not_depend_on_the_others(params):
    key = jax.random.key(3)
    every = init_lora(params, rank=2, targets=list(TARGETS), key=key)
    some = init_lora(params, rank=2, targets=["outer", "query"], key=key)
    for name in some:
        np.testing.assert_array_equal(some[name]["a"], every[name]["a"])
    assert not np.allclose(every["query"]["a"], every["key"]["a"])


def test_only_b_has_a_gradient_at_the_start(params):
    adapter = init_lora(params, rank=2, targets=["query"], key=jax.random.key(0))

    def loss(adapter):
        return jnp.sum(apply_lora(params, adapter)["layers"]["attention"]["qkv"]["kernel"] ** 2)

    gradient = jax.grad(loss)(adapter)
    assert not np.any(gradient["query"]["a"])
    assert np.all(np.abs(gradient["query"]["b"]).max((1, 2)) > 0)
