"""Tests that a checkpoint restores the saved state on any number of devices."""

import jax
import numpy as np
import optax
import pytest

from selfdistill_jax.train.checkpoint import Checkpoints
from selfdistill_jax.train.evaluation.selection import Selection
from selfdistill_jax.train.mesh import make_mesh, put_state
from selfdistill_jax.train.step import TrainState

OPTIMIZER = optax.adamw(1e-3)
MEMORY = Selection(0.1 + 0.2, 20, 3)  # a number that few decimals would not keep


def state(seed=0, devices=8, fsdp=1):
    rng = np.random.default_rng(seed)
    params = {"a": {"kernel": rng.normal(size=(4, 3)).astype(np.float32)}, "b": np.float32([seed])}
    gradient = jax.tree.map(np.ones_like, params)
    _, moments = OPTIMIZER.update(gradient, OPTIMIZER.init(params), params)
    return put_state(TrainState(params, moments), make_mesh(jax.devices()[:devices], fsdp=fsdp))


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path)
    yield made
    made.close()


def test_round_trip_in_a_new_process(tmp_path):
    first = Checkpoints(tmp_path)
    assert first.latest() is None
    first.save(7, state(), MEMORY)
    first.close()
    second = Checkpoints(tmp_path)
    assert second.latest() == 7
    got, memory = second.restore(7, state(seed=1))
    second.close()
    assert_equal(got, state())
    assert memory == MEMORY
    assert isinstance(memory.best_step, int)


def test_memory_of_a_run_without_a_dev_split(checkpoints):
    checkpoints.save(1, state(), Selection())
    assert checkpoints.restore(1, state())[1] == Selection(float("-inf"), -1, 0)


def test_a_saved_state_may_be_overwritten_at_once(checkpoints):
    saved = state()
    expected = jax.device_get(saved)
    checkpoints.save(1, saved, MEMORY)
    # The next step reuses the arrays' memory while they are still being written.
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)(saved)
    assert_equal(checkpoints.restore(1, state())[0], expected)


def test_a_step_saved_twice_is_kept_once(checkpoints, tmp_path):
    checkpoints.save(3, state(), MEMORY)
    checkpoints.save(3, state(seed=1), Selection())
    got, memory = checkpoints.restore(3, state())
    assert_equal(got, state())
    assert memory == MEMORY


def test_only_the_last_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (2, 4, 5, 9):
        checkpoints.save(step, state(seed=step), MEMORY)
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["5", "9"]


def test_half_a_checkpoint_does_not_count(tmp_path):
    first = Checkpoints(tmp_path)
    first.save(2, state(), MEMORY)
    first.close()
    # A crash during a save leaves these folders.
    (tmp_path / "4.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    second = Checkpoints(tmp_path)
    assert second.latest() == 2
    second.save(4, state(seed=1), MEMORY)
    assert_equal(second.restore(4, state())[0], state(seed=1))
    second.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "4"]


@pytest.mark.parametrize(
    ("before", "after"), [((8, 1), (1, 1)), ((1, 1), (8, 4)), ((8, 4), (8, 1))]
)
def test_another_mesh(checkpoints, before, after):
    checkpoints.save(1, state(0, *before), MEMORY)
    like = state(1, *after)
    got, _ = checkpoints.restore(1, like)
    assert_equal(got, state())
    for x, y in zip(*map(jax.tree.leaves, (got, like)), strict=True):
        assert x.sharding == y.sharding
        assert len(x.sharding.device_set) == after[0]


def test_memory_counts_evaluations_without_gain():
    memory = Selection().update(0, 0.3)
    assert memory == (0.3, 0, 0)
    memory = memory.update(5, 0.3).update(10, 0.2)
    assert memory == (0.3, 0, 2)
    assert memory.update(15, 0.4) == (0.4, 15, 0)
