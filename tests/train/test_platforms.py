"""The step for accelerators that this machine has not: it is lowered for them, not run."""

import jax
import jax.numpy as jnp
import optax
import pytest

from selfdistill_jax import losses
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.train.step import TrainState, make_mesh, make_step, put_batch, put_state
from tests.train.every_loss import CONFIG, batch


@pytest.fixture(scope="module")
def traced():
    params, optimizer, mesh = init_params(CONFIG, jax.random.key(0)), optax.adamw(1e-3), make_mesh()
    encode = make_encode(CONFIG, pooling="mean", dtype=jnp.bfloat16)
    step = make_step(encode, losses.distributed_margin, optimizer, mesh)
    state = put_state(TrainState(params, optimizer.init(params)), mesh)
    return step.trace(state, put_batch(batch(parts=jax.device_count()), mesh))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_branches_that_help_a_cpu_are_for_it_alone(traced, platform):
    cpu, other = (
        traced.lower(lowering_platforms=(name,)).as_text().count("stablehlo.case")
        for name in ("cpu", platform)
    )
    assert 0 < other < cpu


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_products_of_bfloat16_are_summed_in_float32(traced, platform):
    products = [
        line
        for line in traced.lower(lowering_platforms=(platform,)).as_text().splitlines()
        if "dot_general" in line and "bf16" in line
    ]
    assert products
    assert all("-> tensor<" in line and line.rstrip().endswith("xf32>") for line in products)
