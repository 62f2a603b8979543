"""A training step with several texts a row, and with each text alone in a row.

    python -m benchmarks.packing --dataset=DIR --document_lengths 200 64 --output=packing.json

Steps of all-MiniLM-L6-v2 in float32 on a BEIR folder's training pairs and random negatives, the
same batches for both, each a process of its own, in turn. The shorter the cut, the more documents
reach it and are equally long: what a text alone in its row wants. "ratio" says how many times as
fast the packed step is, the median over the rounds.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import jax

from benchmarks.common import Worker, alternate, print_table, summary, write
from configs import distributed
from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.encoder.encode import make_encode
from selfdistill_jax.losses import distributed_margin
from selfdistill_jax.train.optimizer import make_optimizer
from selfdistill_jax.train.setup import load_data, load_encoder
from selfdistill_jax.train.step import TrainState, make_mesh, make_step, put_batch, put_state

_BATCHES = 4  # different ones, of which each round trains on the next


def setup(
    *, model: str, dataset: str, packing: bool, batch_size: int, document_length: int
) -> tuple[Any, dict[str, Any]]:
    """For `common.Worker`: a step on the next batch."""
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    config = distributed.get_config()
    config.encoder.init, config.data.dataset, config.data.packing = model, dataset, packing
    config.data.document_length, config.train.batch_size = document_length, batch_size
    config.data.query_length = min(config.data.query_length, document_length)
    encoder = load_encoder(config)
    made = load_data(config, encoder).batches
    batches = [made[number] for number in range(_BATCHES)]
    optimizer = make_optimizer(lambda step: 5e-5, weight_decay=0.01, clip_norm=1.0)
    mesh = make_mesh()
    encode = make_encode(encoder.config, pooling=encoder.pooling)
    step = make_step(encode, distributed_margin, optimizer, mesh)
    state = put_state(TrainState(encoder.params, jax.jit(optimizer.init)(encoder.params)), mesh)
    number = 0

    def run() -> None:
        nonlocal state, number
        state, metrics = step(state, put_batch(batches[number % _BATCHES], mesh))
        number += 1
        jax.block_until_ready((state, metrics))

    useful = sum(batch.useful_tokens for batch in batches)
    computed = sum(batch.computed_tokens for batch in batches)
    rows = ", ".join(map(str, made.shape.row_lengths))
    return run, {"padding": 1 - useful / computed, "tokens": useful / _BATCHES, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="BEIR folder with qrels/train.tsv")
    add("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="folder or hub id")
    add("--document_lengths", type=int, nargs="+", default=[200, 64])
    add("--batch_size", type=int, default=64)
    add("--rounds", type=int, default=4)
    add("--output", default="", help="JSON file to write")
    options = parser.parse_args()
    table = [["cut at", "rows", "padding", "tokens/s", "min..max", "ratio"]]
    found: dict[str, Any] = {}
    for length in options.document_lengths:
        given = {
            "model": options.model,
            "dataset": options.dataset,
            "batch_size": options.batch_size,
            "document_length": length,
        }
        workers = {
            name: Worker(setup, packing=packing, **given)
            for name, packing in (("packed", True), ("alone", False))
        }
        seconds = alternate(workers, options.rounds)
        pairs = zip(seconds["alone"], seconds["packed"], strict=True)
        ratio = statistics.median(alone / packed for alone, packed in pairs)
        found[str(length)] = sides = {"ratio": ratio}
        for name, worker in workers.items():
            tokens = worker.facts["tokens"]
            rate = summary([tokens / taken for taken in seconds[name]])
            sides[name] = {**worker.facts, "tokens_per_second": rate, "peak_gb": worker.close()}
            table.append(
                [length, f"{name}: {worker.facts['rows']}", f"{worker.facts['padding']:.1%}",
                 f"{rate['median']:.0f}", f"{rate['min']:.0f}..{rate['max']:.0f}",
                 f"{ratio:.2f}" if name == "packed" else ""]
            )  # fmt: skip
    print_table(table)
    settings = {
        "dataset": Path(options.dataset).resolve().name,
        "batch_size": options.batch_size,
        "rounds": options.rounds,
    }
    write(options.output, {"settings": settings, "cuts": found})


if __name__ == "__main__":
    main()
