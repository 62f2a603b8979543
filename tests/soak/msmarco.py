"""Prepares, mines, trains, encodes and searches a collection of MS MARCO's format and size.

    python -m tests.soak.msmarco [--passages=300000] [--queries=100000] [--triples=1000000]

Preparing and mining are killed in the middle (SIGKILL) and continued by the same command. Prints
the time and the peak of the memory of every command, and fails if a command fails, repeats finished
work, or takes 2 GB. The encoder is the first layer of all-MiniLM-L6-v2, cut to 128 dimensions: its
vectors are useless, but all data take the same way as with a whole encoder.

"private" is memory that only the process can free; "mapped" are pages of files, which the system
drops when memory is needed.
"""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from selfdistill_jax.checkpoints.hub import locate
from tests.msmarco_files import write_files

ROOT = Path(__file__).parents[2]
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
WIDTH, INNER, HEADS = 128, 256, 4
MOST = 2000  # MB of private memory
_MEMORY = re.compile(r"(RssAnon|RssFile):\s+(\d+)")


class Peak(NamedTuple):
    seconds: float
    private: int
    mapped: int


def write_small_encoder(folder: Path) -> None:
    """Writes the first layer of the default encoder, cut to `WIDTH` dimensions."""
    source = locate(ENCODER)
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
    }
    (folder / "config.json").write_text(json.dumps(config))
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(
        json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": WIDTH})
    )
    cut = {}
    for name, weights in load_file(source / "model.safetensors").items():
        if re.search(r"layer\.[1-9]", name):
            continue
        rows, columns = slice(WIDTH), slice(WIDTH)
        if "embeddings" in name and weights.ndim == 2:
            rows = slice(None)
        elif "intermediate" in name:
            rows = slice(INNER)
        elif re.search(r"layer\.0\.output\.dense", name):
            columns = slice(INNER)
        weights = weights[rows] if weights.ndim == 1 else weights[rows, columns]
        cut[name] = np.ascontiguousarray(weights)
    (folder / "model.safetensors").unlink()
    save_file(cut, folder / "model.safetensors", metadata={"format": "pt"})


def run(*command: str, kill_when: Callable[[], bool] | None = None) -> Peak:
    """Runs a command of the package, and returns its time and its peak of memory.

    Args:
      command: name of the module, and its flags.
      kill_when: kills the command as soon as this is true; it must not end before.
    """
    module, *flags = command
    began, peak = time.monotonic(), {"RssAnon": 0, "RssFile": 0}
    started = [sys.executable, "-m", f"selfdistill_jax.{module}", *flags]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(started, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            for name, size in _MEMORY.findall(status):
                peak[name] = max(peak[name], int(size) // 1024)
            if kill_when and kill_when():
                process.kill()
            time.sleep(0.05)
        expected = -signal.SIGKILL if kill_when else 0
        if process.returncode != expected:
            log.seek(0)
            sys.exit(f"{' '.join(started)}: exit status {process.returncode}\n{log.read()}")
    found = Peak(time.monotonic() - began, peak["RssAnon"], peak["RssFile"])
    killed = ", killed" if kill_when else ""
    print(
        f"{module} {found.seconds:8.0f} s {found.private:6} MB private {found.mapped:6} MB mapped"
        f"{killed}",
        flush=True,
    )
    if found.private > MOST:
        sys.exit(f"more than {MOST} MB")
    return found


def check(right: bool, problem: str) -> None:
    if not right:
        sys.exit(problem)


def main(root: Path, *, passages: int, queries: int, triples: int) -> None:
    data, encoder, cache, workdir = (root / n for n in ("msmarco", "encoder", "cache", "run"))
    write_small_encoder(encoder)
    write_files(data, passages=passages, queries=queries, triples=triples)
    settings = {
        "data.dataset": data,
        "data.cache": cache,
        "encoder.init": encoder,
        "evaluation.retention": "",
    }
    common = [
        "--config=configs/distributed.py",
        *(f"--config.{k}={v}" for k, v in settings.items()),
    ]
    by_id = f"--config.data.triplets={data / 'qidpidtriples.train.full.2.tsv.gz'}"

    print(f"{passages:,} passages, {queries:,} queries, {triples:,} triples")
    print("tokens, killed after the first part of the documents, then continued:")
    first = "tokens/*documents*.parts/*.npz"
    run("prepare", *common, by_id, kill_when=lambda: any(cache.glob(first)))
    made = {path: path.stat().st_mtime_ns for path in cache.glob(first)}
    (collection,) = (cache / "collections").iterdir()
    built = collection.stat().st_mtime_ns
    run("prepare", *common, by_id, kill_when=lambda: len(list(cache.glob(first))) > len(made))
    check(collection.stat().st_mtime_ns == built, "the collection was built again")
    check(
        all(path.stat().st_mtime_ns == time_ for path, time_ in made.items()),
        "parts of the tokens were made again",
    )
    run("prepare", *common, by_id)

    print("mined negatives, killed after the first part of the vectors, then continued:")
    mined = [
        *common,
        "--config.data.negatives=mined",
        "--config.data.candidates=4",
        "--config.data.mined_ceiling=0",
    ]

    def done() -> list[int]:
        notes = (cache / "vectors").glob(".*.part.json")
        return [json.loads(path.read_text())["done"] for path in notes]

    run("prepare", *mined, kill_when=lambda: any(done()))
    check(any(done()), "no vectors were left")
    run("prepare", *mined)
    check(not list((cache / "vectors").iterdir()), "vectors of mining were left behind")

    print("200 steps, and the evaluation on TREC DL's topics:")
    steps = ["--config.train.steps=200", "--config.train.evaluate_every=100"]
    run("main", *mined, *steps, f"--workdir={workdir}", "--config.evaluation.interpolation=()")
    runs = sorted(path.name for path in (workdir / "eval").glob("*.trec"))
    check(runs == [f"{name}.test.trec" for name in ("bm25", "start", "trained")], f"runs: {runs}")

    print("encoding and searching all passages:")
    corpus = root / "corpus.jsonl"
    with (data / "collection.tsv").open() as file, corpus.open("w") as out:
        for line in file:
            id_, text = line.rstrip("\n").split("\t")
            out.write(json.dumps({"_id": id_, "text": text}) + "\n")
    topics = root / "topics.jsonl"
    rows = (data / "queries.dev.small.tsv").read_text().splitlines()[:100]
    pairs = (row.split("\t") for row in rows)
    topics.write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in pairs))
    model = f"--model={workdir / 'model'}"
    run("encode", model, f"--input={corpus}", f"--output={root / 'vectors.npy'}")
    run("search", model, f"--corpus={corpus}", f"--queries={topics}", f"--run={root / 'run.trec'}")
    vectors = np.load(root / "vectors.npy", mmap_mode="r")
    check(vectors.shape == (passages, WIDTH), f"vectors of shape {vectors.shape}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=300_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--triples", type=int, default=1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder), **vars(parser.parse_args()))
