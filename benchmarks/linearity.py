"""Time and memory of a training step as the batch grows, against the tokens in it.

    python -m benchmarks.linearity --batch_sizes 32 128 512 1024 --output=linearity.json

Steps of all-MiniLM-L6-v2's size in float32 on random tokens, a process for each size, in turn.
"to the mean" is the time a useful token takes over the mean of all sizes; "kept" is what the
formula of docs/performance.md says, "temporaries" what the compiled step says it needs.
"""

import argparse
import statistics
from typing import Any

from benchmarks import training_step
from benchmarks.common import Worker, alternate, print_table, summary, write


def compare(
    seconds: dict[str, list[float]], facts: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Batch size -> its figures; times as medians over the rounds."""
    of_token = {
        size: statistics.median(taken) / facts[size]["useful_tokens"]
        for size, taken in seconds.items()
    }
    mean = statistics.mean(of_token.values())
    return {
        size: {
            **facts[size],
            "seconds": summary(taken),
            "microseconds_a_token": of_token[size] * 1e6,
            "to_the_mean": of_token[size] / mean,
        }
        for size, taken in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--batch_sizes", type=int, nargs="+", default=[32, 128, 512, 1024])
    add("--query_length", type=int, default=12)
    add("--document_length", type=int, default=48)
    add("--rounds", type=int, default=3)
    add("--output", default="", help="JSON file to write")
    options = parser.parse_args()
    lengths = {
        "query_length": options.query_length, "document_length": options.document_length
    }  # fmt: skip
    workers = {
        str(size): Worker(training_step.setup, batch_size=size, **lengths)
        for size in options.batch_sizes
    }
    seconds = alternate(workers, options.rounds)
    found = compare(seconds, {size: worker.facts for size, worker in workers.items()})
    for worker in workers.values():
        worker.close()
    rows = [["triplets", "tokens", "seconds", "min..max", "us/token", "to the mean", "kept GB",
             "temporaries GB"]]  # fmt: skip
    for size, one in found.items():
        time = one["seconds"]
        rows.append(
            [size, one["useful_tokens"], f"{time['median']:.2f}",
             f"{time['min']:.2f}..{time['max']:.2f}", f"{one['microseconds_a_token']:.0f}",
             f"{one['to_the_mean']:.3f}", f"{one['kept_gb']:.2f}", f"{one['temporary_gb']:.2f}"]
        )  # fmt: skip
    print_table(rows)
    write(options.output, {"lengths": lengths, "rounds": options.rounds, "sizes": found})


if __name__ == "__main__":
    main()
