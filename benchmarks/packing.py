"""A training step with several texts a row, and with each text alone in a row.

    python -m benchmarks.packing --dataset=DIR --document_lengths 200 64 --output=packing.json

Steps of all-MiniLM-L6-v2 on a BEIR folder's training pairs and random negatives, the same batches
for both, each a process of its own, in turn. The shorter the cut, the more documents reach it and
are equally long: what a text alone in its row wants. "ratio" says how many times as fast the packed
step is, the median over the rounds.
"""

import argparse
import statistics
from typing import Any

import jax

from benchmarks.common import Worker, alternate, print_table, summary, without_path, write
from benchmarks.precision import PRECISIONS
from benchmarks.real_step import build


def setup(*, document_length: int, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """For `common.Worker`: a step on the next batch."""
    made = build(query_length=min(32, document_length), document_length=document_length,
                 **arguments)  # fmt: skip
    state, number = made.state, 0

    def run() -> None:
        nonlocal state, number
        state, metrics = made.step(state, made.batches[number % len(made.batches)])
        number += 1
        jax.block_until_ready((state, metrics))

    return run, {
        "padding": 1 - made.useful_tokens / made.computed_tokens,
        "tokens": made.useful_tokens,
        "rows": ", ".join(map(str, made.shape.row_lengths)),
        "devices": made.devices,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="BEIR folder with qrels/train.tsv")
    add("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="folder or hub id")
    add("--document_lengths", type=int, nargs="+", default=[200, 64])
    add("--batch_size", type=int, default=64)
    add("--dtype", default="float32", choices=PRECISIONS)
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
            "dtype": options.dtype,
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
        "dataset": without_path(options.dataset),
        "batch_size": options.batch_size,
        "dtype": options.dtype,
        "rounds": options.rounds,
    }
    write(options.output, {"settings": settings, "cuts": found})


if __name__ == "__main__":
    main()
