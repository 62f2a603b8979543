"""Learns to find emoji by their names: image-text retrieval with the losses and loop for texts.

    python examples/emoji/train.py --loss=softmax --workdir=runs/emoji

The encoder of names is all-MiniLM-L6-v2, frozen, with a trained matrix after it; a small
convolutional network learns to encode pictures. Emoji of dev and test are not in training. The same
command resumes.
"""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from batches import EmojiBatches
from emoji_data import SIZE, Pairs, read_emoji, render, split
from model import Inputs, encode, init_params

from selfdistill_jax import BiEncoder
from selfdistill_jax.progress import LOG, show_log
from selfdistill_jax.retrieval.evaluation import MEASURES, ScoredRun, dense_run, score
from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.retrieval.text_table import results_table
from selfdistill_jax.train.checkpoint import Checkpoints
from selfdistill_jax.train.compile_ahead import AheadOfTimeStep
from selfdistill_jax.train.evaluation.selection import Selection
from selfdistill_jax.train.loop import LoopSettings, run_steps
from selfdistill_jax.train.loss import make_loss
from selfdistill_jax.train.mesh import make_mesh, put_state, split_cpu_into_devices, to_host
from selfdistill_jax.train.monitoring.run_log import RunLog
from selfdistill_jax.train.monitoring.throughput import RunStats
from selfdistill_jax.train.optimizer import make_optimizer, make_schedule
from selfdistill_jax.train.step import make_step, start_state

_FLAGS = flags.FLAGS
LOSSES = {
    "softmax": {"temperature": 0.05},
    "adaptive": {"in_batch": True},
    "distributed": {},
}
flags.DEFINE_enum("loss", "softmax", list(LOSSES), "Loss to train with.")
flags.DEFINE_string("workdir", "runs/emoji", "Folder of checkpoints, metrics and results.")
flags.DEFINE_string("names", "sentence-transformers/all-MiniLM-L6-v2", "Encoder of the names.")
flags.DEFINE_integer("steps", 500, "Number of steps.")
flags.DEFINE_integer("batch_size", 128, "Pairs per step.")
flags.DEFINE_float("learning_rate", 1e-3, "Highest learning rate.")
flags.DEFINE_integer("seed", 0, "Seed of parameters, order and negatives.")
flags.DEFINE_bool("freeze_image", False, "Leave the image encoder as it was initialised.")


class Split:
    """Evaluates parameters on the emoji of one split, which are searched by their names."""

    def __init__(self, pairs: Pairs, names: np.ndarray, pictures: np.ndarray):
        self.pairs, self.names, self.pictures = pairs, names, pictures
        self._encode = jax.jit(encode)

    def evaluate(self, params: Any) -> ScoredRun:
        ones = jnp.ones(len(self.names) + len(self.pictures), jnp.int32)
        vectors = self._encode(params, Inputs(self.names, self.pictures, ones))
        q, p = np.split(np.asarray(vectors), [len(self.names)])
        ids = [str(row) for row in range(len(self.pairs.emoji))]
        run = dense_run(q, p, query_ids=self.pairs.names, document_ids=ids, k=100)
        return score(self.pairs.qrels(), run)


class Selector:
    """Evaluates on dev during training, and saves the best parameters; the loop calls it."""

    def __init__(self, dev: Split, base: Any, path: Path):
        self._dev, self._base, self._path = dev, base, path

    def select(self, step: int, params: Any, selection: Selection, log: RunLog) -> Selection:
        whole = {**self._base, **to_host(params)}
        scored = self._dev.evaluate(whole)
        values = {measure: scored.mean(measure) for measure in MEASURES}
        log.write("dev", step, values)
        LOG.info("Dev at step %d: nDCG@10 %.4f", step, values[MEASURES[0]])
        selection = selection.update(step, values[MEASURES[0]])
        if selection.best_step == step:
            leaves = {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(whole)}
            np.savez(self._path, **leaves)
        return selection

    def is_over(self, selection: Selection) -> bool:
        del selection
        return False


def run(
    data: dict[str, Split],
    workdir: Path,
    *,
    loss: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    freeze_image: bool = False,
    evaluate_every: int = 100,
    stop: Callable[[int], bool] = lambda step: False,
) -> dict[str, ScoredRun]:
    """Trains, or resumes, and returns the test results of the untrained and the best encoder."""
    name_size = data["train"].names.shape[1]
    start = jax.device_get(init_params(jax.random.key(seed), size=SIZE, name_size=name_size))
    base = {"image": start["image"]} if freeze_image else {}
    trained = {key: value for key, value in start.items() if key not in base}
    mesh = make_mesh()
    schedule = make_schedule(
        learning_rate=learning_rate, steps=steps, warmup_steps=steps // 10, decay="cosine",
        decay_rate=1.0,
    )  # fmt: skip
    optimizer = make_optimizer(schedule, steps=steps, weight_decay=0.05, clip_norm=1.0)
    step = make_step(
        encode,
        make_loss(loss, LOSSES[loss]),
        optimizer,
        mesh,
        merge=lambda base, trained: {**base, **trained},
    )
    batches = EmojiBatches(
        data["train"].pairs, data["train"].pictures, data["train"].names,
        batch_size=batch_size, parts=jax.device_count(), seed=seed,
    )  # fmt: skip
    settings = LoopSettings(
        steps=steps,
        batch_size=batch_size,
        schedule=schedule,
        checkpoint_every=evaluate_every,
        evaluate_every=evaluate_every,
        collapse_cosine=0.99,
        collapse_stop=False,
    )
    state = start_state(trained, optimizer, mesh, target=False)
    best = workdir / "best.npz"
    shapes = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batches[0])]
    with (
        closing(Checkpoints(workdir / "checkpoints")) as checkpoints,
        closing(AheadOfTimeStep(step, mesh, state, shapes, put_state(base, mesh))) as programs,
        closing(RunLog(workdir, step=checkpoints.latest() or 0, active=True)) as log,
    ):
        run_steps(
            settings,
            programs,
            state,
            batches,
            selector=Selector(data["dev"], base, best),
            checkpoints=checkpoints,
            log=log,
            stats=RunStats(matmul_flops=None),
            flops=lambda lengths: 0.0,
            stop=stop,
        )
    with np.load(best) as leaves:
        chosen = jax.tree_util.tree_map_with_path(
            lambda path, _: leaves[jax.tree_util.keystr(path)], start
        )
    return {name: data["test"].evaluate(x) for name, x in (("start", start), ("trained", chosen))}


def load(names: str) -> dict[str, Split]:
    """Returns the splits, with vectors of their names by a text encoder."""
    encoder = BiEncoder.load(names)
    return {
        name: Split(pairs, encoder.encode(pairs.names), render(pairs.emoji))
        for name, pairs in split(read_emoji()).items()
    }


def main(argv: list[str]) -> None:
    del argv
    show_log()
    split_cpu_into_devices(_FLAGS.batch_size)
    workdir = Path(_FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    data = load(_FLAGS.names)
    options = ("loss", "steps", "batch_size", "learning_rate", "seed", "freeze_image")
    found = run(data, workdir, **{name: _FLAGS[name].value for name in options})
    first, last = (found[name].values[MEASURES[0]] for name in ("start", "trained"))
    test = paired_test(first, last)
    counts = {name: (len(one.pairs.emoji), len(one.names)) for name, one in data.items()}
    means = {name: {m: one.mean(m) for m in MEASURES} for name, one in found.items()}
    facts = {"emoji_and_names": counts, "means": means}
    (workdir / "results.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    emoji, queries = counts["test"]
    print(f"{queries:,} names, {emoji:,} emoji that were not in training\n")
    print(results_table({name: one.values for name, one in found.items()}, baseline="start"))
    print(f"\ntrained − start: {test.mean_difference:+.4f} {MEASURES[0]} "
          f"(95 % interval {test.ci_low:+.4f} to {test.ci_high:+.4f})")  # fmt: skip


if __name__ == "__main__":
    app.run(main)
