"""Tests what eight devices exchange in a step, according to the compiled program."""

import re
from functools import partial

import jax
import numpy as np
import optax
import pytest

from selfdistill_jax import losses
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.encoder.lora import apply_lora, init_lora
from selfdistill_jax.train.mesh import make_mesh, put_batch, put_state
from selfdistill_jax.train.step import TrainState, make_step
from tests.train.every_loss import CONFIG, batch

DEVICES = 8
BYTES = {"pred": 1, "f32": 4, "s32": 4}
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
# A step's metrics include quantiles of two columns of the whole batch, which must be sorted.
QUANTILES = "nanquantile"


def collectives(loss, triplets, start=None, base=None, fsdp=1, **options):
    """Lists (kind, bytes of the result, name of the operation) of a step's collectives."""
    params = init_params(CONFIG, jax.random.key(0)) if start is None else start
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    mesh = make_mesh(jax.devices()[:DEVICES], fsdp=fsdp)
    step = make_step(make_encode(CONFIG, pooling="mean"), loss, optimizer, mesh, **options)
    state = put_state(TrainState(params, optimizer.init(params)), mesh)
    rows = put_batch(batch(rows=np.arange(triplets) % 16, parts=DEVICES), mesh)
    found = []
    for line in step.lower(state, rows, put_state(base, mesh)).compile().as_text().splitlines():
        if match := re.search(rf" = (.*?) ({KINDS})(?:-start)?\(", line):
            size = sum(
                BYTES[dtype] * int(np.prod([int(n) for n in shape.split(",") if n]))
                for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            )
            found.append((match[2], size, re.search(r'op_name="([^"]*)"', line)[1]))
    return found


def of_quantiles(found):
    return [one for one in found if QUANTILES in one[2]]


def of_training(found):
    return [one for one in found if QUANTILES not in one[2]]


def bytes_of(found, kind):
    return sum(size for name, size, _ in found if name == kind)


PARAMETERS = 4 * sum(x.size for x in jax.tree.leaves(init_params(CONFIG, jax.random.key(0))))
D = CONFIG.hidden_size


def test_moments_of_a_batch_exchange_the_same_bytes_whatever_its_size():
    loss = partial(losses.distributed_margin, method="moments")
    few, many = (collectives(loss, triplets) for triplets in (16, 64))
    assert of_training(few) == of_training(many)
    assert len(of_training(few)) <= 8
    assert {kind for kind, _, _ in of_training(few)} == {"all-reduce"}
    # The gradient once; the documents' second moments both ways, first moments, and counts.
    rest = bytes_of(of_training(few), "all-reduce") - PARAMETERS
    assert 2 * 4 * D * D <= rest <= 2 * 4 * D * D + 16 * 4 * D
    for found, triplets in ((few, 16), (many, 64)):
        assert [(kind, size) for kind, size, _ in of_quantiles(found)] == [
            ("all-gather", 4 * triplets)
        ] * 2


def test_a_loss_of_own_triplets_exchanges_the_gradient_and_numbers():
    found = of_training(collectives(losses.adaptive_margin, 16))
    assert {kind for kind, _, _ in found} == {"all-reduce"}
    assert 0 <= bytes_of(found, "all-reduce") - PARAMETERS <= 8 * 4 * D


@pytest.mark.parametrize("triplets", [16, 64])
def test_pairs_of_a_batch_exchange_its_vectors_once(triplets):
    found = of_training(collectives(partial(losses.distributed_margin, method="gather"), triplets))
    # One kind of documents and its mask are gathered; each device gets back its share of gradients.
    assert bytes_of(found, "all-gather") == triplets * (4 * D + 1)
    assert bytes_of(found, "reduce-scatter") == triplets * 4 * D // DEVICES
    assert 0 <= bytes_of(found, "all-reduce") - PARAMETERS <= 8 * 4 * D
    assert len(found) <= 8


def test_sharded_parameters_are_gathered_once_and_each_shards_gradient_summed_once():
    found = of_training(collectives(losses.adaptive_margin, 16, fsdp=4))
    kinds = {kind: bytes_of(found, kind) for kind, _, _ in found}
    assert kinds.keys() <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert 0.9 * PARAMETERS <= kinds["all-gather"] <= PARAMETERS
    scattered = kinds["reduce-scatter"]
    assert abs(scattered - PARAMETERS / 4) < 0.1 * PARAMETERS
    # Sums of shards along the other axis, of arrays too small to share, and of the loss's numbers.
    assert kinds["all-reduce"] <= scattered + 0.1 * PARAMETERS + 8 * 4 * D


def test_an_adapters_gradient_is_exchanged_and_none_of_frozen_weights():
    base = init_params(CONFIG, jax.random.key(0))
    targets = ("query", "value", "outer")
    adapter = init_lora(base, rank=2, targets=targets, key=jax.random.key(1))
    found = collectives(losses.adaptive_margin, 16, adapter, base, merge=apply_lora)
    own = 4 * sum(x.size for x in jax.tree.leaves(adapter))
    assert {kind for kind, _, _ in of_training(found)} == {"all-reduce"}
    assert 0 <= bytes_of(of_training(found), "all-reduce") - own <= 8 * 4 * D
