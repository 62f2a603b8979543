"""The training loop: one for every loss, encoder and collection."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.encoder.flops import forward_flops, training_flops
from selfdistill_jax.progress import LOG, Progress
from selfdistill_jax.retrieval.eval_set import (
    make_eval_set,
)
from selfdistill_jax.train.best_model import BestModel
from selfdistill_jax.train.checkpoint import Checkpoints
from selfdistill_jax.train.collapse import CollapseAlarm
from selfdistill_jax.train.compile_ahead import AheadOfTimeStep
from selfdistill_jax.train.dataset import Data, load_data
from selfdistill_jax.train.evaluator import Evaluator
from selfdistill_jax.train.hardware import matmul_rate, process_seconds
from selfdistill_jax.train.job import (
    DTYPES,
    TARGET_ENCODERS,
    check_dimensions,
    check_train,
    load_encoder,
    loss_of,
    make_encoders,
    schedule_of,
)
from selfdistill_jax.train.optimizer import make_optimizer
from selfdistill_jax.train.processes import is_first, on_first, wait
from selfdistill_jax.train.run_folder import (
    check_run,
    claimed,
    is_finished,
    mark_finished,
    start_run,
)
from selfdistill_jax.train.run_log import RunLog, check_finite
from selfdistill_jax.train.selection import Selection, Selector
from selfdistill_jax.train.step import (
    Loss,
    TrainState,
    make_mesh,
    make_step,
    put_batch,
    put_state,
    start_state,
)
from selfdistill_jax.train.throughput import RunStats
from selfdistill_jax.train.tokenized_collection import open_data
from selfdistill_jax.train.trainable import TrainableParams, trained_part


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    restart: bool = False,
    stop: Callable[[int], bool] = lambda step: False,
) -> bool:
    """Trains, or resumes a run that was stopped, and evaluates the best model on test.

    Args:
      config: as of ``configs/base.py``.
      workdir: the run's folder; holds checkpoints, metrics, the model and the evaluation.
      restart: move an old run in that folder aside and begin anew.
      stop: asked after every step, and before each of the last evaluations; True saves a checkpoint
        and ends early.

    Returns:
      Whether the run is finished; False when it was stopped before the end.

    Raises:
      InputError: a wrong setting or file, a folder of another run, or a loss that is not finite.
    """
    mesh = make_mesh()
    check_train(config, mesh.devices.size)
    loss = loss_of(config)
    schedule = schedule_of(config)
    values = config.to_dict()
    if not restart:
        on_first(lambda: check_run(workdir, values, data=open_data(config).fingerprint()))
        if is_finished(workdir):
            return True
    with ExitStack() as held:
        on_first(lambda: held.enter_context(claimed(workdir)))
        return _train(config, workdir, mesh, loss, schedule, restart=restart, stop=stop)


def _train(
    config: ml_collections.ConfigDict, workdir: Path, mesh, loss: Loss, schedule, *, restart, stop
) -> bool:
    encoder = load_encoder(config)
    check_dimensions(config.train.dimensions, encoder.dimensions)
    encode, encode_all = make_encoders(config, encoder)
    data = load_data(config, encoder)
    optimizer = make_optimizer(
        schedule, weight_decay=config.train.weight_decay, clip_norm=config.train.clip_norm
    )
    trained = trained_part(config, encoder)
    moving = config.train.target == "ema"
    step = make_step(
        encode,
        loss,
        optimizer,
        mesh,
        target_decay=config.train.target_decay if moving else 1.0,
        merge=trained.merge,
    )
    has_target = config.train.target in TARGET_ENCODERS
    shapes = jax.eval_shape(
        lambda params: TrainState(params, optimizer.init(params), params if has_target else None),
        trained.start,
    )
    base = put_state(trained.base, mesh)
    stats = RunStats(matmul_flops=None)
    evaluate = Evaluator(encode_all, encoder, data, depth=config.evaluation.depth, stats=stats)
    dev = None
    if "dev" in data.collection.splits:
        limit = config.evaluation.dev_documents
        dev = make_eval_set(data.collection, "dev", max_documents=limit, seed=config.seed)
    best_model = BestModel(config, workdir, encoder, trained, data.collection)
    selector = Selector(dev, evaluate, trained, best_model, patience=config.train.patience)
    # While it compiles the folder is opened, the state made, the start encoder evaluated on dev.
    with closing(AheadOfTimeStep(step, mesh, shapes, data.batches.shapes(), base)) as programs:
        on_first(partial(start_run, workdir, config, encoder, data, restart=restart))
        state = start_state(trained.start, optimizer, mesh, target=has_target)
        run = _Run(config, workdir, encoder, trained, data, selector, stats)
        if not run.fit(programs, state, schedule, mesh, stop):
            return False
    on_first(selector.write_start)
    stop_here = partial(stop, config.train.steps)
    if not evaluate.write_test(workdir / "eval", lambda: best_model.read().params, stop_here):
        return False
    run.log_run_stats()
    finished = partial(
        mark_finished,
        workdir,
        collection=data.collection.name,
        num_documents=len(data.collection.document_ids),
        split=evaluate.test_split,
        ended=run.ended,
    )
    on_first(finished)
    wait("the run is over")  # the first process serves the others until they end
    return True


class _Run:
    """What stays the same through a run; the state goes from step to step in `fit`."""

    def __init__(
        self,
        config,
        workdir: Path,
        encoder: Pretrained,
        trained: TrainableParams,
        data: Data,
        selector: Selector,
        stats: RunStats,
    ):
        self.config, self.workdir, self.encoder, self.data = config, workdir, encoder, data
        self.trained, self._selector, self._stats = trained, selector, stats
        self._has_target = config.train.target in TARGET_ENCODERS
        self._alarm = CollapseAlarm(config.train.collapse_cosine, stop=config.train.collapse_stop)

    @property
    def ended(self) -> str:
        """Returns why training ended early, or an empty string."""
        return self._alarm.message

    def fit(self, programs: AheadOfTimeStep, state: TrainState, schedule, mesh, stop) -> bool:
        """Runs the steps that are left; False when it was stopped before the last."""
        with (
            closing(Checkpoints(self.workdir / "checkpoints")) as checkpoints,
            closing(self._log(checkpoints.latest())) as log,
        ):
            return self._fit(programs, state, schedule, mesh, stop, checkpoints, log)

    def _log(self, begin: int | None) -> RunLog:
        return RunLog(self.workdir, step=-1 if begin is None else begin, active=is_first())

    def _fit(self, programs, state, schedule, mesh, stop, checkpoints, log) -> bool:
        train = self.config.train
        selection, begin = Selection(), checkpoints.latest() or 0
        self._last = begin
        if begin:
            state, selection = checkpoints.restore(begin, state)
            LOG.info("Resuming from step %d in %s", begin, self.workdir)
        if not begin:
            selection = self._selector.select(0, state.params, selection, log)
        batches = self.data.batches.iterate(begin)
        # Metrics are read while the next step runs.
        waiting: tuple[int, TripletBatch, Any] | None = None
        last_time = time.monotonic()
        stopped = False

        def flush() -> None:
            nonlocal waiting, last_time
            if waiting is None:
                return
            number, batch, metrics = waiting
            waiting, self._last = None, number
            values = {k: float(v) if v.ndim == 0 else v for k, v in jax.device_get(metrics).items()}
            check_finite(number, values["loss"])
            self._alarm.update(number, values["document_cosine"])
            now = time.monotonic()
            seconds, last_time = now - last_time, now
            values["learning_rate"] = float(schedule(number - 1))
            log.write("train", number, values | self._account(batch, seconds))
            rate = f"{train.batch_size / seconds:.1f}"
            bar.update(1, **{"loss": f"{values['loss']:.4f}", "triplets/s": rate})

        with (
            closing(batches),
            Progress("Training", train.steps, unit="steps", start=begin) as bar,
        ):
            for number in range(begin + 1, train.steps + 1):
                if self._selector.is_over(selection):
                    break
                with self._stats.timed("data"):
                    batch = next(batches)
                with self._stats.timed("compile"):
                    step = programs.prepare(batch)
                began = process_seconds()
                state, metrics = step(state, put_batch(batch, mesh))
                flush()
                if self._alarm.message:
                    break
                waiting = number, batch, metrics
                if number == begin + 1:
                    jax.block_until_ready(metrics)
                    self._stats.first_step(began, process_seconds())
                last = number == train.steps
                if number % train.evaluate_every == 0 or last:
                    flush()
                    if self._alarm.message:
                        break
                    selection = self._selector.select(number, state.params, selection, log)
                    last_time = time.monotonic()
                stopped = not last and (stop(number) or checkpoints.preempted(number))
                if number % train.checkpoint_every == 0 or last or stopped:
                    flush()
                    if self._alarm.message:
                        # Not saved: going on from there would forget why the run ended.
                        stopped = False
                        break
                    with self._stats.timed("checkpoint"):
                        checkpoints.save(number, state, selection)
                    last_time = time.monotonic()
                if stopped:
                    LOG.info("Stopped at step %d; the same command resumes there", number)
                    break
            flush()
        self._stats.compile_seconds = programs.seconds
        return not stopped

    def _account(self, batch: TripletBatch, seconds: float) -> dict[str, float]:
        """Notes a step in the ledger; returns the step's own figures."""
        processes = jax.process_count()  # whose batches are about alike
        useful = processes * batch.useful_tokens
        computed = processes * batch.computed_tokens
        frozen = self.trained.base is not None
        lengths = batch.texts.lengths.reshape(-1)
        flops = training_flops(self.encoder.config, lengths, frozen=frozen)
        if self._has_target:
            flops += forward_flops(self.encoder.config, lengths)
        self._stats.step(
            triplets=self.config.train.batch_size,
            useful_tokens=useful,
            computed_tokens=computed,
            useful_flops=processes * flops,
            seconds=seconds,
        )
        return {
            "triplets_per_second": round(self.config.train.batch_size / seconds, 2),
            "useful_tokens_per_second": round(useful / seconds, 1),
            "padding_share": round(1 - useful / computed, 4),
        }

    def log_run_stats(self) -> None:
        """The account of this process's steps: the last record of the metrics, and a table."""
        if not self._stats.account()["steps"]:
            return
        rate = matmul_rate(DTYPES[self.config.train.dtype])
        self._stats.matmul_flops = rate * jax.process_count()
        with closing(self._log(self._last)) as log:
            log.write("account", self._last, self._stats.account())
        LOG.info("Account of this run:\n%s", self._stats.table())
