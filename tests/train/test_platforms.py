"""Tests the step for accelerators that are not present, by lowering it without running it."""

import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest

from selfdistill_jax import losses
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.train.mesh import make_mesh, put_batch, put_state
from selfdistill_jax.train.step import TrainState, make_step
from tests.train.every_loss import CONFIG, batch


@functools.cache
def traced(backend):
    params, optimizer, mesh = init_params(CONFIG, jax.random.key(0)), optax.adamw(1e-3), make_mesh()
    encode = make_encode(CONFIG, pooling="mean", dtype=jnp.bfloat16, backend=backend)
    step = make_step(encode, losses.distributed_margin, optimizer, mesh)
    state = put_state(TrainState(params, optimizer.init(params)), mesh)
    return step.trace(state, put_batch(batch(parts=jax.device_count()), mesh))


def lowered(backend, platform):
    return traced(backend).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_branches_that_help_a_cpu_are_for_it_alone(platform):
    cpu, other = (lowered("cpu", name).count("stablehlo.case") for name in ("cpu", platform))
    assert 0 < other < cpu


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_plain_encoder_has_no_branches_and_a_loop_over_layers_each_way(platform):
    """A branch or a loop bound that depends on data would wait for the host."""
    text = lowered("plain", platform)
    # Code for one platform is lowered as branches whose index is the platform, a constant. Such
    # branches return constants, or there is only one. The compilers remove them: compiled programs
    # have none (tests/train/test_compiled_step.py).
    cases = re.findall(r'"stablehlo\.case"\(.*?\}\) : \(tensor<i32>\) -> (\S+)', text, re.S)
    bodies = re.findall(r'"stablehlo\.case"\((.*?)\}\) : \(tensor<i32>\)', text, re.S)
    assert len(cases) == len(bodies) == text.count("stablehlo.case")
    for result, body in zip(cases, bodies, strict=True):
        operations = set(re.findall(r"stablehlo\.(\w+)", body)) - {"constant", "return"}
        assert (result == "tensor<i32>" and not operations) or "}, {" not in body
    assert text.count("stablehlo.while") == 2


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_products_of_bfloat16_are_summed_in_float32(platform):
    products = [
        line
        for line in lowered("cpu", platform).splitlines()
        if "dot_general" in line and "bf16" in line
    ]
    assert products
    assert all("-> tensor<" in line and line.rstrip().endswith("xf32>") for line in products)
