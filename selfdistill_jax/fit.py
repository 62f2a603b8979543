"""Trains an encoder from Python: `fit` with examples, `train_and_report` with a config."""

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from selfdistill_jax.cli.config_flag import change_settings
from selfdistill_jax.cli.session import keep_compiled
from selfdistill_jax.config import LOSSES, get_config
from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.data.examples.columns import IDS, TEXTS
from selfdistill_jax.data.examples.file import ExampleFile
from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.io import expand, write_text
from selfdistill_jax.progress import show_log
from selfdistill_jax.report.finished_run import FinishedRun, read_finished_run
from selfdistill_jax.report.text import result_text
from selfdistill_jax.report.write import write_report
from selfdistill_jax.retrieval.bi_encoder import BiEncoder
from selfdistill_jax.train.job import make_job
from selfdistill_jax.train.model import MODEL
from selfdistill_jax.train.run import train
from selfdistill_jax.train.run_folder import read_result, recorded_dtype

_TRAINED = 0.9  # share of the queries in a file of examples that is used for training


def train_and_report(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    restart: bool = False,
    stop: Callable[[int], bool] = lambda step: False,
) -> str | None:
    """Trains an encoder and writes the run's report.

    Args:
      config: settings with the keys of `selfdistill_jax.config`.
      workdir, restart, stop: see `selfdistill_jax.train.run.train`.

    Returns:
      The result as text, empty on all processes except the first; None if the run was stopped.

    Raises:
      InputError: see `make_job` and `train`.
    """
    # A resumed run keeps its type, even on a machine where another type is faster.
    job = make_job(config, dtype="" if restart else recorded_dtype(workdir))
    if not train(job, workdir, restart=restart, stop=stop):
        return None
    if jax.process_index():
        return ""
    return read_result(workdir) or write_report(workdir)


class Fitted(NamedTuple):
    """Holds the result of `fit`.

    Attributes:
      model: the encoder that did best on dev; the start encoder if training did not help.
      run: the values of every test query, and how the final weights were chosen.
      text: the result as the training command prints it, also ``str(fitted)``.
      folder: the run's folder, with the report; None if it was temporary.
    """

    model: BiEncoder
    run: FinishedRun
    text: str
    folder: Path | None

    def __str__(self) -> str:
        return self.text


def fit(
    start: str,
    examples: Iterable[Any] | str | Path,
    *,
    loss: str = "softmax",
    epochs: float = 1.0,
    workdir: str | Path = "",
    settings: Mapping[str, Any] | None = None,
) -> Fitted:
    """Trains an encoder on examples and evaluates it, as the training command does.

    A tenth of the queries is held out: half to choose the best model, half to test it. With
    ``settings={"data.dataset": FOLDER}`` a BEIR folder's dev and test splits are used instead.

    Args:
      start: folder or hub id of the start encoder.
      examples: tuples ``(query, positive)`` or ``(query, positive, negative, …)``; or dicts with
        the columns of any format in docs/data.md, such as the rows of a `datasets.Dataset`; or the
        path of a file or folder of them.
      loss: a name in `selfdistill_jax.config.LOSSES`.
      epochs: number of passes over the training examples, unless ``settings`` has "train.steps".
      workdir: folder of the run, which the same call resumes. Empty for a temporary folder, which
        is deleted with the model.
      settings: settings of `selfdistill_jax.config` by their names, such as
        ``{"train.learning_rate": 1e-4}``.

    Returns:
      The model and its evaluation.

    Raises:
      InputError: an example or a setting is wrong, or the folder belongs to another run.
    """
    if loss not in LOSSES:
        raise InputError(f"loss {loss!r}: expected {', '.join(LOSSES)}{nearest(loss, LOSSES)}")
    show_log()
    keep_compiled()
    config = get_config(loss)
    config.encoder.init = start
    given = dict(settings or {})
    change_settings(config, given, source="selfdistill_jax/config.py")
    if isinstance(examples, str | Path):
        path = examples
    else:
        path = write_examples(examples, cache_folder(config.data.cache) / "examples")
    config.data.triplets = str(path)
    file = ExampleFile(path, columns=config.data.columns, positive_from=config.data.positive_from)
    count = sum(1 for _ in file.rows(IDS if file.has_ids else TEXTS, log=False))
    _set_lengths(config, count, given, epochs)
    folder = expand(workdir).absolute() if workdir else Path(tempfile.mkdtemp())
    try:
        text = train_and_report(config, folder) or ""  # empty if this is not the first process
        model, run = BiEncoder.load(str(folder / MODEL)), read_finished_run(folder)
    except BaseException:
        if not workdir:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if workdir:
        return Fitted(model, run, text, folder)
    # Saving the model copies files of its folder, such as the tokenizer's.
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    return Fitted(model, run, result_text(run), None)


def write_examples(examples: Iterable[Any], folder: Path) -> Path:
    """Writes examples as JSONL into a folder, and returns the file, which is named by its content.

    Args:
      examples: tuples of texts or dicts, see `fit`.
      folder: the folder.

    Raises:
      InputError: an example is neither, or holds values that JSON does not have.
    """
    lines = []
    for number, example in enumerate(examples):
        if isinstance(example, Mapping):
            row = dict(example)
        elif isinstance(example, tuple | list) and len(example) >= 2:
            query, positive, *negatives = example
            row = {"query": query, "positive": positive, "negatives": negatives}
        else:
            raise InputError(
                f"example {number} is {example!r:.80}; expected (query, positive), "
                "(query, positive, negative, …) or a dict"
            )
        try:
            lines.append(json.dumps(row) + "\n")
        except TypeError as error:
            raise InputError(f"example {number}: {error}; expected texts and numbers") from None
    text = "".join(lines)
    path = folder / f"examples-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def _set_lengths(
    config: ml_collections.ConfigDict, count: int, given: Mapping[str, Any], epochs: float
) -> None:
    """Sets batch size and number of steps by the number of examples, unless they are given."""
    train, devices = config.train, jax.device_count()
    if not config.data.dataset:
        count = int(_TRAINED * count)
    if "train.batch_size" not in given and count < train.batch_size:
        train.batch_size = max(count // devices * devices, devices, 2)
    if "train.steps" not in given:
        train.steps = max(round(epochs * count / train.batch_size), 1)
    every = max(train.steps // 10, 10)
    for name, value in (
        ("warmup_steps", train.steps // 10), ("evaluate_every", every), ("checkpoint_every", every)
    ):  # fmt: skip
        if f"train.{name}" not in given:
            train[name] = value
