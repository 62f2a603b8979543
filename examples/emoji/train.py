"""Learns to find emoji by their names: image-text retrieval with the losses and loop for texts.

    python -m examples.emoji.train --loss=softmax --workdir=runs/emoji

The encoder of names is all-MiniLM-L6-v2, frozen, with a trained matrix after it; a small
convolutional network learns to encode pictures. Emoji of dev and test are not in training. The same
command resumes.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.emoji.batches import EmojiBatches
from examples.emoji.emoji_data import SIZE, Pairs, read_emoji, render, split
from examples.emoji.model import Inputs, encode, init_params
from selfdistill_jax import BiEncoder
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG, show_log
from selfdistill_jax.retrieval.evaluation import MEASURES, ScoredRun, score
from selfdistill_jax.retrieval.search import search
from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.retrieval.text_table import results_table
from selfdistill_jax.retrieval.trec import run_from_rows
from selfdistill_jax.train.checkpoint import Checkpoints
from selfdistill_jax.train.compile_ahead import AheadOfTimeStep
from selfdistill_jax.train.evaluation.selection import Selection
from selfdistill_jax.train.loop import LoopSettings, run_steps
from selfdistill_jax.train.loss import make_loss
from selfdistill_jax.train.mesh import make_mesh, put_state, split_cpu_into_devices, to_host
from selfdistill_jax.train.monitoring.run_log import RunLog
from selfdistill_jax.train.monitoring.throughput import RunStats
from selfdistill_jax.train.optimizer import make_optimizer, make_schedule
from selfdistill_jax.train.run_folder import open_run
from selfdistill_jax.train.step import make_step, start_state

NAMES = "sentence-transformers/all-MiniLM-L6-v2"
LOSSES = {
    "softmax": {"temperature": 0.05},
    "adaptive": {"in_batch": True},
    "distributed": {},
}


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
        found = search(q, p, k=100)
        run = run_from_rows(self.pairs.names, ids, *found)
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
    *,
    workdir: Path,
    loss: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    freeze_image: bool = False,
    evaluate_every: int = 100,
    stop: Callable[[int], bool] = lambda step: False,
) -> dict[str, ScoredRun]:
    """Trains, or resumes, and returns the test results of the untrained and the best encoder.

    Raises:
      InputError: an option is out of range, or the folder holds a run with other options.
    """
    most, devices = len(data["train"].pairs.examples()), jax.device_count()
    if steps < 1 or not 2 <= batch_size <= most or batch_size % devices:
        raise InputError(
            f"steps is {steps} and batch_size {batch_size}; expected 1 or more, and a batch of "
            f"2 to {most} pairs that {devices} devices can share equally"
        )
    options = {"loss": loss, "steps": steps, "batch_size": batch_size, "seed": seed}
    options |= {"learning_rate": learning_rate, "freeze_image": freeze_image}
    open_run(workdir, options, data="emoji", restart=False)
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
    checkpoints = Checkpoints(workdir / "checkpoints")
    begin = checkpoints.latest()
    shapes = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batches[0])]
    with (
        closing(checkpoints),
        closing(AheadOfTimeStep(step, mesh, state, shapes, put_state(base, mesh))) as programs,
        closing(RunLog(workdir, step=-1 if begin is None else begin, active=True)) as log,
    ):
        outcome = run_steps(
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
    if outcome.ended:
        LOG.warning("Training ended early: %s", outcome.ended)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=LOSSES, default="softmax")
    parser.add_argument("--workdir", type=Path, default=Path("runs/emoji"))
    parser.add_argument("--names", default=NAMES, help="model that encodes the names")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch_size", type=int, default=128, help="pairs per step")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--freeze_image", action="store_true", help="train the two matrices only")
    options = vars(parser.parse_args())
    show_log()
    split_cpu_into_devices(options["batch_size"])
    try:
        data = load(options.pop("names"))
        found = run(data, **options)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}; run: pip install -r examples/emoji/requirements.txt")
    except InputError as error:
        sys.exit(f"error: {error}")
    test = paired_test(*(found[name].values[MEASURES[0]] for name in ("start", "trained")))
    emoji, names = len(data["test"].pairs.emoji), len(data["test"].names)
    print(f"{names:,} names, {emoji:,} emoji that were not in training\n")
    print(results_table({name: one.values for name, one in found.items()}, baseline="start"))
    print(f"\ntrained − start: {test.mean_difference:+.4f} {MEASURES[0]} "
          f"(95 % interval {test.ci_low:+.4f} to {test.ci_high:+.4f})")  # fmt: skip


if __name__ == "__main__":
    main()
