"""Helpers that stop or kill a run, and that compare what runs leave behind."""

import jax
import numpy as np
import pytest

from selfdistill_jax.encoder.apply import make_encode
from selfdistill_jax.train.checkpoint import Checkpoints
from selfdistill_jax.train.mesh import make_mesh, put_state
from selfdistill_jax.train.optimizer import make_optimizer, make_schedule
from selfdistill_jax.train.step import TrainState
from tests.tiny import content, load_model, metrics, train


class Killed(BaseException):
    """Stands in for the end of the process; nothing in the loop catches it."""


def killed(*args, **kwargs):
    raise Killed


def kill_at(step):
    def stop(number):
        if number == step:
            raise Killed
        return False

    return stop


def stop_at(step):
    return lambda number: number == step


def checkpointed(config, workdir, step):
    """Returns the trained parameters that a checkpoint holds."""
    schedule = make_schedule(
        learning_rate=0.1, steps=1, warmup_steps=0, decay="constant", decay_rate=1.0
    )
    optimizer = make_optimizer(schedule, steps=1, weight_decay=0.0, clip_norm=1.0)
    start = load_model(config).trained.start
    like = put_state(TrainState(start, optimizer.init(start)), make_mesh())
    checkpoints = Checkpoints(workdir / "checkpoints")
    state, _ = checkpoints.restore(step, like)
    checkpoints.close()
    return jax.device_get(state.params)


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def assert_goes_on(config, folder, whole):
    """Checks that a run stopped, then killed past a checkpoint, ends as the whole run did."""
    assert train(config, folder, stop=stop_at(2)) is None
    with pytest.raises(Killed):
        train(config, folder, stop=kill_at(6))
    assert train(config, folder) is not None
    assert_same_run(folder, whole)


def assert_same_run(one, other):
    """Checks that runs are equal to the bit, except for the clock and the folder's name."""
    assert metrics(one) == metrics(other)
    for folder in ("model", "eval", "adapter"):
        assert content(one / folder) == content(other / folder)
    texts = [(run / "result.txt").read_text().replace(str(run), "RUN") for run in (one, other)]
    assert texts[0] == texts[1]


def vectors_of(encoder, batch, negatives=1):
    """Returns the vectors of a batch's queries, positives and negatives, from all its parts."""
    encode = jax.jit(make_encode(encoder.config, pooling=encoder.pooling))
    kinds = 2 + negatives
    parts = [
        np.split(encode(encoder.params, jax.tree.map(lambda x, i=i: x[i], batch.inputs)), kinds)
        for i in range(len(batch.inputs.num_blocks))
    ]
    q, p, *n = (np.concatenate(kind) for kind in zip(*parts, strict=True))
    return [q, p, n[0] if negatives == 1 else np.stack(n, axis=1)]
