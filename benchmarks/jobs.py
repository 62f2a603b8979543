"""A single run of one side of `benchmarks.versus`, in a separate process on shared triplets."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
OPTIMIZER = {"learning_rate": 5e-5, "weight_decay": 0.01, "clip_norm": 1.0}
# Runs `python -m selfdistill_jax.main`, then writes the peak memory of the device.
COMMAND = """
import json, runpy, sys
path = sys.argv.pop(1)
try:
    runpy.run_module("selfdistill_jax.main", run_name="__main__", alter_sys=True)
finally:
    import jax
    memory = jax.local_devices()[0].memory_stats() or {}
    peak = memory.get("peak_bytes_in_use")
    with open(path, "w") as file:
        json.dump({"device_gb": None if peak is None else peak / 1e9}, file)
"""


def make_triplets(folder: str, count: int, seed: int) -> list[dict[str, str]]:
    """Rows of query, positive and negative texts from a BEIR folder.

    Args:
      folder: a BEIR folder with ``qrels/train.tsv``.
      count: number of rows; training pairs are in random order, and repeat in another random order
        when all have been used.
      seed: seed of the order and the negatives.

    Raises:
      InputError: the folder is invalid, has no training pairs, or has no possible negatives.
    """
    source = BeirFolder(folder)
    documents = [document.content for document in source.documents()]
    queries = [query.text for query in source.queries()]
    pairs = [(queries[t.query], documents[t.positive]) for t in source.examples()]
    if not pairs:
        raise InputError(f"{folder}: no training pairs; expected them in qrels/train.tsv")
    # Compared by text: a copy of a positive under another id is no negative.
    positives: dict[str, set[str]] = {}
    for query, positive in pairs:
        positives.setdefault(query, set()).add(positive)
    if max(map(len, positives.values())) >= len(set(documents)):
        raise InputError(f"{folder}: a query has all documents as positives, and so no negative")
    rng = np.random.default_rng(seed)
    rounds = -(-count // len(pairs))
    order = np.concatenate([rng.permutation(len(pairs)) for _ in range(rounds)])[:count]
    rows = []
    for query, positive in (pairs[i] for i in order):
        negative = positive
        while negative in positives[query]:
            negative = documents[rng.integers(len(documents))]
        rows.append({"query": query, "positive": positive, "negative": negative})
    return rows


def useful_tokens(tokenizer: Tokenizer, rows: Sequence[Mapping[str, str]], lengths) -> int:
    """Number of tokens of all rows after the cut, special tokens included.

    Args:
      tokenizer: the encoder's tokenizer.
      rows: rows of `make_triplets`.
      lengths: column name -> maximum number of tokens.
    """
    return sum(
        len(ids)
        for column, limit in lengths.items()
        for ids in tokenizer.encode([row[column] for row in rows], limit=limit)
    )


class Timing(NamedTuple):
    """Times of a run's steps, in seconds from the start of its process.

    Attributes:
      began: the begin of the first step.
      first: the end of the first step.
      ends: the ends of all steps; only their differences are used.
    """

    began: float
    first: float
    ends: list[float]


def figures(
    timing: Timing,
    *,
    job_seconds: float,
    batch_size: int,
    tokens_per_step: float,
) -> dict[str, float]:
    """The figures by which runs are compared.

    Args:
      timing: times of four steps or more.
      job_seconds: seconds from the start of the process to its end.
    """
    # Without the last step: ours records a step when the next one has been dispatched.
    step = statistics.median(np.diff(timing.ends)[1:-1].tolist())
    return {
        "triplets_per_second": batch_size / step,
        "useful_tokens_per_second": tokens_per_step / step,
        "first_step_seconds": timing.began,
        "first_update_seconds": timing.first,
        "job_seconds": job_seconds,
    }


class Job:
    """Data and settings that all runs share; `run` executes one run in an empty folder.

    Args:
      options: options of the command line.
      model: the encoder's folder.
      folder: a temporary folder.
    """

    def __init__(self, options: argparse.Namespace, model: Path, folder: Path):
        self._options, self._model, self._folder = options, model, folder
        rows = make_triplets(options.dataset, options.steps * options.batch_size, options.seed)
        lengths = {
            "query": options.query_length,
            "positive": options.document_length,
            "negative": options.document_length,
        }
        tokens = useful_tokens(Tokenizer(model), rows, lengths)
        self.tokens_per_triplet = tokens / len(rows)
        self._triplets = write_rows(folder / "triplets.jsonl", rows)
        # A dataset without judgements, so that nothing is evaluated.
        self._unjudged = folder / "unjudged"
        (self._unjudged / "qrels").mkdir(parents=True)
        write_rows(self._unjudged / "corpus.jsonl", [{"_id": "d", "text": "none"}])
        write_rows(self._unjudged / "queries.jsonl", [{"_id": "q", "text": "none"}])
        (self._unjudged / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n")

    def run(self, side: str, precision: str, steps: int) -> dict[str, Any]:
        """Returns the figures of one run, and facts about it.

        Raises:
          InputError: the run failed; the message has the end of its output.
        """
        output = self._folder / "run"
        output.mkdir()
        cache = self._folder / "cache"
        if self._options.cache == "cold":
            shutil.rmtree(cache, ignore_errors=True)
        command = (self._ours if side == "ours" else self._peer)(side, precision, steps, output)
        # Without the compilation cache of this process, and with Python's bytecode cache: compiling
        # all imports again would add 6 s to a start.
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith("JAX_COMPILATION_CACHE") and k != "PYTHONDONTWRITEBYTECODE"
        }
        environment = kept | {"XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
        log = self._folder / "log"
        with log.open("wb") as file:
            clocks = {"ours": time.time(), "peer": time.monotonic()}
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
            # The memory is that of the largest process, if the run starts others.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - clocks["peer"]
        process.returncode = os.waitstatus_to_exitcode(status)
        saved = (output / "model" / "model.safetensors").is_file()
        if process.returncode or not saved:
            tail = log.read_text(errors="replace").strip()[-2000:]
            raise InputError(f"{side} ended with {process.returncode} and no model:\n{tail}")
        record = json.loads((output / "record.json").read_text())
        if side == "ours":
            timing, losses, facts = of_ours(output / "metrics.jsonl", clocks["ours"])
        else:
            ends = [t - clocks["peer"] for t in record["times"]]
            timing = Timing(record["began"] - clocks["peer"], ends[0], ends)
            losses, facts = record["losses"], record["facts"]
        shutil.rmtree(output)
        size = self._options.batch_size
        return {
            **figures(
                timing,
                job_seconds=seconds,
                batch_size=size,
                tokens_per_step=size * self.tokens_per_triplet,
            ),
            "peak_gb": usage.ru_maxrss * 1024 / 1e9,
            "device_peak_gb": record["device_gb"],
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "facts": facts,
        }

    def _ours(self, side: str, precision: str, steps: int, output: Path) -> list[str]:
        options = self._options
        settings = {
            "data.dataset": self._unjudged,
            "data.triplets": self._triplets,
            "data.query_length": options.query_length,
            "data.document_length": options.document_length,
            "encoder.init": self._model,
            "encoder.dropout": "source" if options.dropout else "none",
            "loss.over": "positives",
            "train.steps": steps,
            "train.batch_size": options.batch_size,
            "train.dtype": precision,
            "train.checkpoint_every": steps,
            "train.evaluate_every": steps,
            **{f"train.{name}": value for name, value in OPTIMIZER.items()},
        }
        flags = [f"--config.{name}={value}" for name, value in settings.items()]
        flags += [f"--config.{given}" for given in options.ours_config]
        start = [sys.executable, "-c", COMMAND, str(output / "record.json")]
        return [*start, "--config=configs/distributed.py", f"--workdir={output}", *flags]

    def _peer(self, side: str, precision: str, steps: int, output: Path) -> list[str]:
        options = self._options
        settings = {
            "model": str(self._model),
            "triplets": str(self._triplets),
            "output": str(output),
            "query_length": options.query_length,
            "document_length": options.document_length,
            "steps": steps,
            "batch_size": options.batch_size,
            "precision": precision,
            "dropout": options.dropout,
            **OPTIMIZER,
        }
        return [sys.executable, "-m", "benchmarks.torch_sides", side, json.dumps(settings)]


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# Entries of the run's account that are reported for ours only.
_OF_ACCOUNT = ("padding_share", "model_flops_utilization", "data_wait_share", "compile_seconds")


def of_ours(path: Path, start: float) -> tuple[Timing, list[float], dict[str, Any]]:
    """Timing, losses and facts from the ``metrics.jsonl`` of a run.

    Args:
      path: the file.
      start: wall-clock time at the start of the process; the records have wall-clock times too.
    """
    records = [json.loads(line) for line in path.read_text().splitlines()]
    (account,) = (record for record in records if record["kind"] == "account")
    steps = [record for record in records if record["kind"] == "train"]
    timing = Timing(
        account["seconds_to_first_step"],
        account["seconds_to_first_update"],
        [record["time"] - start for record in steps],
    )
    return timing, [r["loss"] for r in steps], {name: account[name] for name in _OF_ACCOUNT}
