"""Time and memory of a training step by the number of tokens in its batch.

    python -m benchmarks.linearity --batch_sizes 32 128 512 1024 --dtype=bfloat16 --dataset=FOLDER

With --dataset, the steps train an encoder on the first batch of a BEIR folder's training pairs;
without it, an encoder of all-MiniLM-L6-v2's size on random tokens. Each size has a separate
process.
A round visits the sizes in ascending and then in descending order, and trains each size on the
number
of tokens of the largest batch: one step of 1,024 triplets, 32 steps of 32. Single steps would
compare
two seconds with seventy, and the speed of a shared machine drifts by a fifth within minutes.

"to the mean" is the time of a useful token divided by the mean of all sizes in that round, as a
median
over the rounds. "kept" is the memory by the formula of docs/performance.md and "temporaries" the
memory
that the compiled step reports, both for all devices. "peak" is the peak memory of the process,
libraries and state included.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import real_step, training_step
from benchmarks.common import Worker, print_table, summary, without_path, write
from benchmarks.precision import PRECISIONS


def there_and_back(workers: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, float]:
    """Size -> seconds per token in one round.

    Args:
      workers: size -> a worker whose ``run()`` returns the seconds of one step.
      tokens: size -> number of tokens of one step.
    """
    steps = {size: max(tokens.values()) // count for size, count in tokens.items()}
    seconds = dict.fromkeys(workers, 0.0)
    for size in [*workers, *reversed(workers)]:
        seconds[size] += sum(workers[size].run() for _ in range(steps[size]))
    return {size: taken / (2 * steps[size] * tokens[size]) for size, taken in seconds.items()}


def compare(rounds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Size -> microseconds per token, and the ratio to the mean of all sizes in the round."""
    means = [statistics.mean(one.values()) for one in rounds]
    return {
        size: {
            "microseconds_a_token": summary([one[size] * 1e6 for one in rounds]),
            "to_the_mean": summary(
                [one[size] / mean for one, mean in zip(rounds, means, strict=True)]
            ),
        }
        for size in rounds[0]
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--batch_sizes", type=int, nargs="+", default=[32, 128, 512, 1024])
    add("--dataset", default="", help="BEIR folder with qrels/train.tsv")
    add("--model", default="", help="with a dataset: folder or hub id; all-MiniLM-L6-v2")
    add("--query_length", type=int, default=0, help="tokens; 20, and 8 of random ones")
    add("--document_length", type=int, default=0, help="tokens; 200, and 24 of random ones")
    add("--dtype", default="float32", choices=PRECISIONS)
    add("--rounds", type=int, default=3)
    add("--output", default="", help="JSON file to write")
    options = parser.parse_args(argv)
    setup, usual, what = training_step.setup, (8, 24), {}
    if options.model and not options.dataset:
        parser.error("--model needs --dataset; random tokens are for all-MiniLM-L6-v2's size")
    if options.dataset:
        model = options.model or "sentence-transformers/all-MiniLM-L6-v2"
        what = {"dataset": options.dataset, "model": model}
        setup, usual = real_step.setup, (20, 200)
    lengths = {
        "query_length": options.query_length or usual[0],
        "document_length": options.document_length or usual[1],
    }
    workers = {
        str(size): Worker(setup, batch_size=size, dtype=options.dtype, **lengths, **what)
        for size in sorted(options.batch_sizes)
    }
    facts = {size: worker.facts for size, worker in workers.items()}
    tokens = {size: one["useful_tokens"] for size, one in facts.items()}
    found = compare([there_and_back(workers, tokens) for _ in range(options.rounds)])
    for size, worker in workers.items():
        facts[size]["peak_gb"] = worker.close()
    rows = [["triplets", "tokens", "us/token", "min..max", "to the mean", "min..max", "kept GB",
             "temporaries GB", "peak GB"]]  # fmt: skip
    for size, one in found.items():
        row = [size, tokens[size]]
        for name, digits in (("microseconds_a_token", 0), ("to_the_mean", 3)):
            middle, least, most = (f"{one[name][k]:.{digits}f}" for k in ("median", "min", "max"))
            row += [middle, f"{least}..{most}"]
        rows.append(
            [*row, *(f"{facts[size][k]:.2f}" for k in ("kept_gb", "temporary_gb", "peak_gb"))]
        )
    print_table(rows)
    sizes = {size: {**facts[size], **one} for size, one in found.items()}
    what = {name: without_path(value) for name, value in what.items()}
    settings = {**what, **lengths, "dtype": options.dtype, "rounds": options.rounds}
    write(options.output, {"settings": settings, "sizes": sizes})


if __name__ == "__main__":
    main()
