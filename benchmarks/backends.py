"""The plain encoder against the engine for CPUs: a training step, and encoding.

    python benchmarks/backends.py --dataset=pydocs --output=backends.json

Both compute the same function of the same parameters. Each gets the layout of packed texts that
suits it: the engine gets rows of three lengths in blocks that fit a CPU's cache, the plain encoder
rows of one length in one array. Each side is a separate process, and the sides run in turn.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # when run as a file
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.common import Worker, alternate, print_table, summary, write

SIDES = ("cpu", "plain")


def _use_one_array(backend: str) -> None:
    """Gives the plain side the layout of texts for accelerators."""
    from selfdistill_jax.retrieval import encode_corpus
    from selfdistill_jax.train.data import dataset

    if backend == "plain":
        for module in (encode_corpus, dataset):
            module.on_accelerator = lambda: True


def step(*, backend: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """For `common.Worker`: one training step on a batch of the collection."""
    from benchmarks import real_step

    _use_one_array(backend)
    return real_step.setup(backend=backend, **settings)


def encode(*, backend: str, model: str, dataset: str, dtype: str, texts: int):
    """For `common.Worker`: encodes the collection's first documents, tokenised beforehand."""
    import jax.numpy as jnp

    from selfdistill_jax.checkpoints.model_folder import read_folder
    from selfdistill_jax.data.sources.registry import open_source
    from selfdistill_jax.encoder import apply
    from selfdistill_jax.retrieval import bi_encoder

    _use_one_array(backend)
    if backend == "plain":
        bi_encoder.make_encode = lambda *a, **k: apply.make_encode(*a, backend=backend, **k)
    loaded = bi_encoder.BiEncoder(
        read_folder(model)._replace(max_length=96), dtype=jnp.dtype(dtype)
    )
    rows = itertools.islice(open_source(dataset=dataset).documents(), texts)
    tokens = loaded.tokenize([row.content for row in rows])
    loaded.encode_tokens(tokens)
    return lambda: loaded.encode_tokens(tokens), {"tokens": int(tokens.lengths(96).sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="folder or hub id")
    add("--dataset", default="pydocs", help="pydocs or a BEIR folder")
    add("--batch_size", type=int, default=64)
    add("--texts", type=int, default=1000)
    add("--rounds", type=int, default=5)
    add("--output", default="", help="JSON file to write")
    options = parser.parse_args()
    given = {"model": options.model, "dataset": options.dataset}
    lengths = {"query_length": 32, "document_length": 96, "batch_size": options.batch_size}
    rows, results = [["work", "dtype", *SIDES, "plain / cpu"]], []
    for dtype, (name, setup, more) in itertools.product(
        ("float32", "bfloat16"),
        (("step", step, lengths), ("encode", encode, {"texts": options.texts})),
    ):
        workers = {
            side: Worker(setup, backend=side, dtype=dtype, **given, **more) for side in SIDES
        }
        seconds = alternate(workers, options.rounds)
        facts = {side: {**workers[side].facts, "peak_gb": workers[side].close()} for side in SIDES}
        pairs = [b / a for a, b in zip(*(seconds[side] for side in SIDES), strict=True)]
        found = {side: summary(seconds[side]) for side in SIDES} | {"ratio": summary(pairs)}
        results.append({"work": name, "dtype": dtype, "seconds": found, "facts": facts})
        rows.append(
            [name, dtype, *(f"{found[side]['median']:.2f} s" for side in SIDES),
             "{median:.2f} ({min:.2f}..{max:.2f})".format(**found["ratio"])]
        )  # fmt: skip
        print_table(rows)
    write(options.output, {"settings": vars(options), "results": results})


if __name__ == "__main__":
    main()
