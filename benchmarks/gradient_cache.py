"""Memory and time of a training step that encodes its batch in micro-batches.

    python -m benchmarks.gradient_cache --batch_size=512 --micro_batches=8

Two processes run the same step of all-MiniLM-L6-v2's size in turn: one encodes the whole batch at
once, the other in micro-batches. "peak" is the peak memory of each process, libraries included. Run
the benchmark twice: the first peak also includes compiling. "step" is the memory of the step
itself, state and temporaries.
"""

import argparse

from benchmarks import training_step
from benchmarks.common import Worker, alternate, print_table, summary, write


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--micro_batches", type=int, default=8)
    parser.add_argument("--query_length", type=int, default=32)
    parser.add_argument("--document_length", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="", help="JSON file to write")
    options = parser.parse_args()
    sizes = {
        key: getattr(options, key) for key in ("batch_size", "query_length", "document_length")
    }
    counts = {"whole": 1, "cached": options.micro_batches}
    workers = {
        name: Worker(training_step.setup, micro_batches=count, **sizes)
        for name, count in counts.items()
    }
    seconds = alternate(workers, options.rounds)
    found = {
        name: {
            "micro_batches": counts[name],
            "seconds": summary(seconds[name]),
            **worker.facts,
            "peak_gb": worker.close(),
        }
        for name, worker in workers.items()
    }
    for one in found.values():
        one["step_gb"] = one["temporary_gb"] + one["state_gb"]
    rows = [["step", "micro-batches", "seconds", "min..max", "peak GB", "step GB", "loss"]]
    for name, one in found.items():
        time = one["seconds"]
        rows.append(
            [name, one["micro_batches"], f"{time['median']:.2f}",
             f"{time['min']:.2f}..{time['max']:.2f}", f"{one['peak_gb']:.2f}",
             f"{one['step_gb']:.2f}", f"{one['loss']:.7f}"]
        )  # fmt: skip
    print_table(rows)
    whole, cached = found["whole"], found["cached"]
    pairs = zip(seconds["cached"], seconds["whole"], strict=True)
    ratios = {
        "time": summary([a / b for a, b in pairs]),
        "peak": cached["peak_gb"] / whole["peak_gb"],
        "step": cached["step_gb"] / whole["step_gb"],
        "loss_difference": abs(cached["loss"] / whole["loss"] - 1),
        "gradient_norm_difference": abs(cached["gradient_norm"] / whole["gradient_norm"] - 1),
    }
    print(
        f"\ncached over whole: time {ratios['time']['median']:.2f} "
        f"({ratios['time']['min']:.2f}..{ratios['time']['max']:.2f}), "
        f"peak {ratios['peak']:.3f}, step {ratios['step']:.3f}; "
        f"loss differs by {ratios['loss_difference']:.0e}, "
        f"gradient's norm by {ratios['gradient_norm_difference']:.0e}, relatively"
    )
    write(options.output, {"sizes": sizes, **found, "ratios": ratios})


if __name__ == "__main__":
    main()
