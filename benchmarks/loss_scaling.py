"""Time and memory of the distributed loss and its gradient by batch size, for both methods.

    python -m benchmarks.loss_scaling --output=loss_scaling.json

Every point is a separate process; its peak memory includes the inputs, their gradients (together 24
bytes a number) and all libraries. A point is left out, and listed as such, if its inputs and
gradients
do not fit this machine, or if it would take longer than --limit seconds, estimated from half the
batch. "share" is the share of the loss in a training step of all-MiniLM-L6-v2's size at the default
sizes.
"""

import argparse
from typing import Any

import jax

from benchmarks import training_step
from benchmarks.common import Worker, alternate, memory_gb, print_table, summary, write
from configs import base
from selfdistill_jax.losses import distributed_margin

# Growth of the time when the batch is doubled.
GROWTH = {"gather": 4, "moments": 2}


def setup(*, batch_size: int, dimensions: int, method: str) -> tuple[Any, dict[str, Any]]:
    """For `common.Worker`: value and gradient on random vectors."""

    @jax.jit
    def vectors():
        keys = jax.random.split(jax.random.key(0), 3)
        return tuple(jax.random.normal(key, (batch_size, dimensions)) for key in keys)

    q, p, n = jax.block_until_ready(vectors())
    function = jax.jit(
        jax.value_and_grad(lambda *x: distributed_margin(*x, method=method), (0, 1, 2))
    )
    compiled = function.lower(q, p, n).compile()
    repeats = max(1, 2**14 // batch_size)  # so that a call is long enough to measure

    def run() -> None:
        for _ in range(repeats):
            jax.block_until_ready(compiled(q, p, n))

    memory = compiled.memory_analysis()
    return run, {
        "repeats": repeats,
        "loss": float(compiled(q, p, n)[0]),
        "temporary_gb": memory.temp_size_in_bytes / 1e9,
    }


def measure(batch_size: int, dimensions: int, method: str, rounds: int) -> dict[str, Any]:
    worker = Worker(setup, batch_size=batch_size, dimensions=dimensions, method=method)
    seconds = alternate({"": worker}, rounds)[""]
    return {
        "batch_size": batch_size,
        "dimensions": dimensions,
        "method": method,
        "seconds": summary([s / worker.facts["repeats"] for s in seconds]),
        "loss": worker.facts["loss"],
        "temporary_gb": worker.facts["temporary_gb"],
        "peak_gb": worker.close(),
    }


def left_out(
    batch_size: int, dimensions: int, method: str, before: dict[str, Any] | None, limit: float
) -> str:
    """The reason why a point is not measured; empty if it is measured."""
    arrays = 24 * batch_size * dimensions / 1e9
    # Beside inputs and gradients, moments needs 0.9 times their memory (measured), gather less.
    needed = arrays * (1.9 if method == "moments" else 1.3)
    if needed > 0.9 * memory_gb():
        return f"needs about {needed:.0f} GB"
    if before is None:
        return ""
    seconds = GROWTH[method] * before["seconds"]["median"]
    return f"would take about {seconds:.0f} s" if seconds > limit else ""


def share_of_a_step(rounds: int) -> dict[str, Any]:
    """Seconds of a training step at the default sizes, and of the loss at its batch size."""
    config = base.get_config()
    size = config.train.batch_size
    step = Worker(
        training_step.setup,
        batch_size=size,
        query_length=config.data.query_length,
        document_length=config.data.document_length,
    )
    loss = Worker(training_step.loss_alone, batch_size=size, dimensions=384)
    seconds = alternate({"step": step, "loss": loss}, rounds)
    alone = [s / loss.facts["calls"] for s in seconds["loss"]]
    for worker in (step, loss):
        worker.close()
    found: dict[str, Any] = {"step": summary(seconds["step"]), "loss": summary(alone)}
    return found | {"share": found["loss"]["median"] / found["step"]["median"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smallest", type=int, default=8, help="exponent of the first batch")
    parser.add_argument("--largest", type=int, default=20, help="exponent of the last batch")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[384, 768, 1024])
    parser.add_argument("--methods", nargs="+", default=list(GROWTH), choices=list(GROWTH))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60, help="seconds of one call")
    parser.add_argument("--output", default="", help="JSON file to write")
    options = parser.parse_args()
    points, missing = [], []
    head = ["d", "batch", "method", "seconds", "min..max", "us/triplet", "temporary GB", "peak GB"]
    rows = [head]
    for dimensions in options.dimensions:
        for method in options.methods:
            last: dict[str, Any] | None = None
            for exponent in range(options.smallest, options.largest + 1):
                size = 2**exponent
                if why := left_out(size, dimensions, method, last, options.limit):
                    missing.append(f"d {dimensions}, {method}, batch 2^{exponent} on: {why}")
                    break
                last = measure(size, dimensions, method, options.rounds)
                points.append(last)
                time = last["seconds"]
                rows.append(
                    [dimensions, f"2^{exponent}", method, f"{time['median']:.3g}",
                     f"{time['min']:.3g}..{time['max']:.3g}", f"{1e6 * time['median'] / size:.3g}",
                     f"{last['temporary_gb']:.2f}", f"{last['peak_gb']:.2f}"]
                )  # fmt: skip
                print("  ".join(map(str, rows[-1])), flush=True)
    print()
    print_table(rows)
    for line in missing:
        print(f"not measured: {line}")
    share = share_of_a_step(options.rounds)
    print(
        f"\nloss {1e3 * share['loss']['median']:.2f} ms of a step's "
        f"{share['step']['median']:.2f} s: {share['share']:.4%}"
    )
    write(options.output, {"points": points, "not_measured": missing, "share": share})


if __name__ == "__main__":
    main()
