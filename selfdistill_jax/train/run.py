"""Runs a training run from start to end: its folder, parts, steps and evaluation."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import jax

from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.encoder.flops import training_flops
from selfdistill_jax.io import write_json
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.eval_set import make_eval_set
from selfdistill_jax.train.checkpoint import Checkpoints
from selfdistill_jax.train.compile_ahead import AheadOfTimeStep
from selfdistill_jax.train.data.dataset import load_data
from selfdistill_jax.train.data.start_vectors import StartVectors
from selfdistill_jax.train.data.tokenized_collection import TokenizedCollection, tokenize
from selfdistill_jax.train.evaluation.best_model import BestModel
from selfdistill_jax.train.evaluation.evaluator import Evaluator
from selfdistill_jax.train.evaluation.final_choice import EVAL, Chosen, choose_weights
from selfdistill_jax.train.evaluation.final_test import final_split, write_test
from selfdistill_jax.train.evaluation.retention import RETENTION, measure_retention
from selfdistill_jax.train.evaluation.selection import Selector
from selfdistill_jax.train.job import Job
from selfdistill_jax.train.loop import run_steps
from selfdistill_jax.train.mesh import put_state
from selfdistill_jax.train.model import Model
from selfdistill_jax.train.monitoring.data_facts import data_facts
from selfdistill_jax.train.monitoring.hardware import matmul_rate
from selfdistill_jax.train.monitoring.run_log import RunLog
from selfdistill_jax.train.monitoring.throughput import RunStats
from selfdistill_jax.train.monitoring.trackers import open_tracker
from selfdistill_jax.train.processes import first_then_rest, is_first, on_first, wait
from selfdistill_jax.train.run_folder import (
    check_run,
    claimed,
    is_finished,
    mark_finished,
    start_run,
)
from selfdistill_jax.train.step import TrainState, make_step, start_state


def train(
    job: Job,
    workdir: Path,
    *,
    restart: bool = False,
    stop: Callable[[int], bool] = lambda step: False,
) -> bool:
    """Trains, or resumes a run that was stopped, and evaluates the best model on test.

    Args:
      job: a job from `make_job`.
      workdir: the run's folder; holds checkpoints, metrics, the model and the evaluation.
      restart: move an old run in that folder aside and start anew.
      stop: called after every step, and before each of the final evaluations; True saves a
        checkpoint and ends early.

    Returns:
      Whether the run is finished; False when it was stopped before the end.

    Raises:
      InputError: a setting or file is wrong, or the folder belongs to another run.
    """
    if not restart:
        source = job.data.source
        on_first(lambda: check_run(workdir, job.settings, data=source.fingerprint()))
        if is_finished(workdir):
            return True
    with ExitStack() as held:
        on_first(lambda: held.enter_context(claimed(workdir)))
        return _train(job, workdir, restart=restart, stop=stop)


def _train(job: Job, workdir: Path, *, restart: bool, stop: Callable[[int], bool]) -> bool:
    model = job.load_model()
    data, batches, start_vectors = load_data(job.data, model)
    trained, collection = model.trained, data.collection
    stats = RunStats(matmul_flops=None)
    evaluate = _evaluator(job, model, data, start_vectors, stats)
    dev = None
    if "dev" in collection.splits:
        most, seed = job.evaluation.dev_documents, job.data.seed
        dev = make_eval_set(collection, "dev", max_documents=most, seed=seed)
    best_model = BestModel(
        job.settings, workdir, model, collection, frozen_documents=job.data.frozen_documents
    )
    selector = Selector(dev, evaluate, trained, best_model, patience=job.patience)
    # Meanwhile the folder is opened, the state created, and the start encoder evaluated on dev.
    with closing(_compile(job, model, batches.shapes())) as programs, ExitStack() as opened:
        start = partial(start_run, workdir, job.settings, model.pretrained, data, restart=restart)
        on_first(start)
        state = start_state(trained.start, job.optimizer, job.mesh, target=job.target_encoder)
        checkpoints = opened.enter_context(closing(Checkpoints(workdir / "checkpoints")))
        begin = checkpoints.latest()
        log = _log(job, workdir, -1 if begin is None else begin)
        opened.enter_context(closing(log))
        if begin is None:
            log.write("data", 0, data_facts(data, job.data))
        elif begin:
            LOG.info("Resuming from step %d in %s", begin, workdir)
        outcome = run_steps(
            job.loop,
            programs,
            state,
            batches,
            selector=selector,
            checkpoints=checkpoints,
            log=log,
            stats=stats,
            flops=partial(
                training_flops,
                model.pretrained.config,
                frozen=trained.base is not None,
                backward=trained.through_layers,
                target=job.target_encoder,
            ),
            stop=stop,
        )
    if outcome.stopped:
        return False
    on_first(selector.write_start)
    wait("the best model is written")
    split = final_split(collection, job.evaluation.split)
    stop_here = partial(stop, job.loop.steps)
    end = partial(_evaluate_end, job, model, data, evaluate, best_model, workdir)
    if not end(split=split, stop=stop_here):
        return False
    _log_stats(stats, workdir, job, outcome.last_step)
    finished = partial(
        mark_finished,
        workdir,
        collection=collection.name,
        num_documents=len(collection.document_ids),
        split=split,
        ended=outcome.ended,
        diverged=outcome.diverged,
    )
    on_first(finished)
    wait("the run is over")  # the first process coordinates the others, so it must end last
    return True


def _evaluator(
    job: Job, model: Model, tokens, start_vectors: StartVectors, stats: RunStats
) -> Evaluator:
    return Evaluator(
        model,
        tokens,
        depth=job.evaluation.depth,
        start_vectors=start_vectors,
        stats=stats,
        frozen_documents=job.data.frozen_documents,
    )


def _evaluate_end(
    job: Job,
    model: Model,
    data: TokenizedCollection,
    evaluate: Evaluator,
    best_model: BestModel,
    workdir: Path,
    *,
    split: str,
    stop: Callable[[], bool],
) -> bool:
    """Chooses the run's weights on dev, then evaluates them on test and on other collections.

    Returns:
      True when all is done, False when it was stopped.
    """
    settings, folder = job.evaluation, workdir / EVAL
    if settings.interpolation and "dev" in data.collection.splits:
        chosen = choose_weights(
            make_eval_set(data.collection, "dev"),
            evaluate,
            model.pretrained.params,
            best_model,
            alphas=settings.interpolation,
            workdir=workdir,
            stop=stop,
        )
        if chosen is None:
            return False
    else:
        chosen = Chosen(1.0, best_model.read().params)
    if not split:
        return True
    options: dict[str, Any] = {"depth": settings.depth, "stop": stop}
    if not write_test(folder, data.collection, split, evaluate, chosen, **options):
        return False
    own, found = job.data.source.fingerprint(), []
    for source in settings.retention:
        if source.fingerprint() == own:
            continue
        other = first_then_rest(
            partial(tokenize, source, job.data.cache, model.pretrained, data.tokenizer)
        )
        vectors = StartVectors(model, other, cache=job.data.cache, dtype=job.data.dtype)
        measured = measure_retention(
            other.collection,
            _evaluator(job, model, other, vectors, RunStats(matmul_flops=None)),
            chosen,
            max_documents=settings.retention_documents,
            stop=stop,
        )
        if measured is None:
            return False
        found.append(measured)
    if found:
        on_first(lambda: write_json(folder / RETENTION, found))
    return True


def _compile(job: Job, model: Model, shapes: Sequence[TripletBatch]) -> AheadOfTimeStep:
    """Starts compiling the step for the given shapes of batches."""
    step, state = run_step(job, model)
    return AheadOfTimeStep(step, job.mesh, state, shapes, put_state(model.trained.base, job.mesh))


def run_step(job: Job, model: Model) -> tuple[Any, TrainState]:
    """Returns the jitted step of a run, and the shapes and types of its state."""
    trained = model.trained
    step = make_step(
        model.encode,
        job.loss,
        job.optimizer,
        job.mesh,
        target_decay=job.target_decay,
        merge=trained.merge,
    )

    def start(params):
        target = params if job.target_encoder else None
        return TrainState(params, job.optimizer.init(params), target)

    return step, jax.eval_shape(start, trained.start)


def _log(job: Job, workdir: Path, step: int) -> RunLog:
    tracker = partial(open_tracker, job.tracker, workdir, job.settings, begin=step)
    return RunLog(workdir, step=step, active=is_first(), open_tracker=tracker)


def _log_stats(stats: RunStats, workdir: Path, job: Job, last_step: int) -> None:
    """Writes this process's figures: the last record of the metrics, and a table in the log."""
    if not stats.account()["steps"]:
        return
    stats.matmul_flops = matmul_rate(job.dtype) * jax.process_count()
    with closing(_log(job, workdir, last_step)) as log:
        log.write("account", last_step, stats.account())
    LOG.info("Account of this run:\n%s", stats.table())
