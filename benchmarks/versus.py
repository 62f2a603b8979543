"""A whole training job: this package against the released method's step and sentence-transformers.

    python benchmarks/versus.py --dataset=DIR --steps=30 --batch_size=128 --output=versus.json

All sides train on the same triplets, made of a BEIR folder's training pairs and random negatives,
from the same encoder with the same loss, AdamW and batch, each run a process of its own, in turn:

    ours                   the command `python -m selfdistill_jax.main`, nothing evaluated
    released               the released code's step: every text padded to its maximum
    sentence_transformers  its own trainer: texts padded to the longest of their column

For each: triplets and useful tokens a second (the median step from the third to the last but one;
padding is no useful token), seconds from the start of the process to the end of its first update
and, as "job", to its exit with the model on disk, and the most memory it held. Ours logs a step
when the next one is under way, so its first update is reported late rather than early.

Dropout is off on all sides. This package has none; --dropout=0.1 is what the peers do by default,
and does not touch ours. Ratios say how many times as fast ours is: above 1, ours is faster. On
several GPUs set CUDA_VISIBLE_DEVICES to one: ours and sentence-transformers would use all.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # when run as a file

from benchmarks.common import print_table, summary, write
from selfdistill_jax.data.beir import BeirFolder
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.encoder.locate import locate
from selfdistill_jax.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
NEEDS = {
    "ours": (),
    "released": ("torch", "transformers"),
    "sentence_transformers": ("torch", "sentence_transformers", "datasets", "accelerate"),
}
PRECISIONS = ("bfloat16", "float32")
OPTIMIZER = {"learning_rate": 5e-5, "weight_decay": 0.01, "clip_norm": 1.0}
TRIAL_STEPS = 5  # to find a side's faster precision
# Figures that are seconds: there the side that has less is the faster one.
SECONDS = ("first_step_seconds", "job_seconds")
# `python -m selfdistill_jax.main`, which then writes down what the device held at most.
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
      folder: with ``qrels/train.tsv``.
      count: rows; the training pairs come in a random order, and in another one when all are used.
      seed: of the order and the negatives.

    Raises:
      InputError: the folder is wrong, has no training pairs, or nothing to draw negatives from.
    """
    source = BeirFolder(folder)
    documents = [document.content for document in source.documents()]
    queries = [query.text for query in source.queries()]
    pairs = [(queries[t.query], documents[t.positive]) for t in source.triplets()]
    if not pairs:
        raise InputError(f"{folder}: no training pairs; expected them in qrels/train.tsv")
    # By their texts: a copy of a positive under another id is no negative.
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
    """Tokens of all rows, special ones included, after the cut.

    Args:
      tokenizer: of the encoder.
      rows: as of `make_triplets`.
      lengths: column name -> tokens it is cut at.
    """
    return sum(
        len(ids)
        for column, limit in lengths.items()
        for ids in tokenizer.encode([row[column] for row in rows], limit=limit)
    )


def figures(
    times: Sequence[float], *, job_seconds: float, batch_size: int, tokens_per_step: float
) -> dict[str, float]:
    """What a run is compared by.

    Args:
      times: seconds from the process's start to the end of each update, four or more.
      job_seconds: from its start to its end.
    """
    # Without the last: ours logs the last two steps at once, each of the others one step late.
    step = statistics.median(np.diff(times)[1:-1].tolist())
    return {
        "triplets_per_second": batch_size / step,
        "useful_tokens_per_second": tokens_per_step / step,
        "first_step_seconds": times[0],
        "job_seconds": job_seconds,
    }


def summaries(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Median, least, most and all values of each figure that was measured."""
    return {
        name: {**summary(values), "rounds": values}
        for name in runs[0]
        if None not in (values := [run[name] for run in runs])
    }


def speedups(runs: Mapping[str, Sequence[Mapping[str, Any]]], figure: str) -> dict[str, float]:
    """Peer -> how many times as fast ours is by a figure: the median of the rounds' ratios."""
    found = {}
    for side in runs.keys() - {"ours"} if "ours" in runs else ():
        ratios = [a[figure] / b[figure] for a, b in zip(runs["ours"], runs[side], strict=True)]
        found[side] = statistics.median(1 / r if figure in SECONDS else r for r in ratios)
    return found


class Job:
    """What all runs share; `run` does one of them in a folder of its own.

    Args:
      options: of the command line.
      model: the encoder's folder.
      folder: a temporary one.
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
        # Where nothing is judged, nothing is evaluated.
        self._unjudged = folder / "unjudged"
        (self._unjudged / "qrels").mkdir(parents=True)
        write_rows(self._unjudged / "corpus.jsonl", [{"_id": "d", "text": "none"}])
        write_rows(self._unjudged / "queries.jsonl", [{"_id": "q", "text": "none"}])
        (self._unjudged / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n")

    def run(self, side: str, precision: str, steps: int) -> dict[str, Any]:
        """Figures of one run.

        Raises:
          InputError: it failed; the message has the end of what it printed.
        """
        output = self._folder / "run"
        output.mkdir()
        cache = self._folder / "cache"
        if self._options.cache == "cold":
            shutil.rmtree(cache, ignore_errors=True)
        command = (self._ours if side == "ours" else self._peer)(side, precision, steps, output)
        # Without the caches that this process may have been given.
        kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
        environment = kept | {"XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
        log = self._folder / "log"
        with log.open("wb") as file:
            clocks = {"ours": time.time(), "peer": time.monotonic()}
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
            # Its memory is of the largest of its processes, should it start others.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - clocks["peer"]
        process.returncode = os.waitstatus_to_exitcode(status)
        saved = (output / "model" / "model.safetensors").is_file()
        if process.returncode or not saved:
            tail = log.read_text(errors="replace").strip()[-2000:]
            raise InputError(f"{side} ended with {process.returncode} and no model:\n{tail}")
        record = json.loads((output / "record.json").read_text())
        if side == "ours":
            times = [t - clocks["ours"] for t in logged_times(output / "metrics.jsonl")]
        else:
            times = [t - clocks["peer"] for t in record["times"]]
        shutil.rmtree(output)
        size = self._options.batch_size
        return {
            **figures(
                times,
                job_seconds=seconds,
                batch_size=size,
                tokens_per_step=size * self.tokens_per_triplet,
            ),
            "peak_gb": usage.ru_maxrss * 1024 / 1e9,
            "device_peak_gb": record["device_gb"],
        }

    def _ours(self, side: str, precision: str, steps: int, output: Path) -> list[str]:
        options = self._options
        settings = {
            "data.dataset": self._unjudged,
            "data.triplets": self._triplets,
            "data.query_length": options.query_length,
            "data.document_length": options.document_length,
            "encoder.init": self._model,
            "loss.over": "positives",
            "train.steps": steps,
            "train.batch_size": options.batch_size,
            "train.dtype": precision,
            "train.checkpoint_every": steps,
            "train.evaluate_every": steps,
            **{f"train.{name}": value for name, value in OPTIMIZER.items()},
        }
        flags = [f"--config.{name}={value}" for name, value in settings.items()]
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

    def faster_precision(self, side: str) -> str:
        """By a trial of a few steps each."""
        rates = {}
        for precision in PRECISIONS:
            found = self.run(side, precision, min(TRIAL_STEPS, self._options.steps))
            rates[precision] = found["triplets_per_second"]
            print(f"trial, {side}, {precision}: {rates[precision]:.1f} triplets/s", flush=True)
        return max(rates, key=rates.__getitem__)


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def logged_times(path: Path) -> list[float]:
    """When the training steps of a run's ``metrics.jsonl`` were written, by the wall clock."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record["time"] for record in records if record["kind"] == "train"]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="BEIR folder with qrels/train.tsv")
    add("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="folder or hub id")
    add("--steps", type=int, default=30, help="updates of a run, 4 or more")
    add("--batch_size", type=int, default=128)
    add("--query_length", type=int, default=20)
    add("--document_length", type=int, default=200)
    for side in ("ours", "peers"):
        choices = [*PRECISIONS, "best"]
        text = "best: the faster one of both in a trial"
        add(f"--{side}_precision", default="bfloat16", choices=choices, help=text)
    add("--dropout", type=float, default=0.0, help="of the peers; their default is 0.1")
    add("--sides", default=",".join(NEEDS), help="which ones, separated by commas")
    add("--rounds", type=int, default=3)
    text = "of compiled programs and tokens; warm: a run of ours that is not counted fills it"
    add("--cache", default="cold", choices=["cold", "warm"], help=text)
    add("--seed", type=int, default=0, help="of the triplets")
    add("--output", default="", help="JSON file to write")
    options = parser.parse_args(argv)
    options.sides = options.sides.split(",")
    if unknown := set(options.sides) - NEEDS.keys():
        parser.error(f"--sides: no {', '.join(sorted(unknown))}; there are {', '.join(NEEDS)}")
    if options.steps < 4:
        parser.error("--steps: 4 or more, of which the first two and the last are not counted")
    return options


def check_libraries(sides: Sequence[str]) -> None:
    """Raises InputError if a side's library is not installed."""
    for side in sides:
        if missing := [name for name in NEEDS[side] if find_spec(name) is None]:
            raise InputError(
                f"{side} needs {', '.join(missing)}: install the extra `peers` "
                "(pip install '.[peers]' 'sentence-transformers[train]'), or leave the side out, "
                "as in --sides=ours"
            )


def measure(options: argparse.Namespace) -> None:
    check_libraries(options.sides)
    with tempfile.TemporaryDirectory(prefix="versus-") as folder:
        job = Job(options, locate(options.model), Path(folder))
        if options.cache == "warm" and "ours" in options.sides:
            asked = options.ours_precision
            for precision in PRECISIONS if asked == "best" else [asked]:
                job.run("ours", precision, options.steps)
        precisions = {}
        for side in options.sides:
            asked = options.ours_precision if side == "ours" else options.peers_precision
            precisions[side] = job.faster_precision(side) if asked == "best" else asked
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
        for number in range(options.rounds):
            for side in options.sides:
                found = job.run(side, precisions[side], options.steps)
                runs[side].append(found)
                rate, seconds = found["triplets_per_second"], found["job_seconds"]
                print(f"round {number + 1}, {side}: {rate:.1f} triplets/s, job {seconds:.1f} s",
                      flush=True)  # fmt: skip
    report(options, runs, precisions, job.tokens_per_triplet)


def report(options, runs, precisions: Mapping[str, str], tokens_per_triplet: float) -> None:
    """Prints the table and writes the JSON."""
    found = {side: {"precision": precisions[side], **summaries(runs[side])} for side in runs}
    columns = {
        "triplets_per_second": ("triplets/s", 1),
        "useful_tokens_per_second": ("tokens/s", 0),
        "first_step_seconds": ("first step s", 1),
        "job_seconds": ("job s", 1),
        "peak_gb": ("peak GB", 2),
        "device_peak_gb": ("device GB", 2),
    }
    columns = {name: c for name, c in columns.items() if all(name in v for v in found.values())}
    head = [text for title, _ in columns.values() for text in (title, "min..max")]
    rows = [["side", "precision", *head]]
    for side, values in found.items():
        row = [side, precisions[side]]
        for name, (_, digits) in columns.items():
            median, least, most = (values[name][k] for k in ("median", "min", "max"))
            row += [f"{median:.{digits}f}", f"{least:.{digits}f}..{most:.{digits}f}"]
        rows.append(row)
    print()
    print_table(rows)
    ratios = {
        "ratios": speedups(runs, "triplets_per_second"),
        "ratios_whole_job": speedups(runs, "job_seconds"),
        "ratios_first_step": speedups(runs, "first_step_seconds"),
    }
    for side, rate in ratios["ratios"].items():
        print(
            f"\nours, times as fast as {side}: {rate:.2f} by triplets/s, "
            f"{ratios['ratios_whole_job'][side]:.2f} by the whole job, "
            f"{ratios['ratios_first_step'][side]:.2f} to the first step",
            end="",
        )
    print()
    kept = ("steps", "batch_size", "query_length", "document_length", "dropout", "rounds", "cache")
    packages = sorted({name for side in runs for name in NEEDS[side]})
    settings = {
        "dataset": Path(options.dataset).resolve().name,
        "model": Path(options.model).name if Path(options.model).is_dir() else options.model,
        **{name: getattr(options, name) for name in (*kept, "seed")},
        **OPTIMIZER,
        "tokens_per_triplet": tokens_per_triplet,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    write(options.output, {"settings": settings, **found, **ratios})


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    try:
        measure(options)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
