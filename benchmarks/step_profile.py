"""Time of a training step by kinds of operations, compared with its upper bound.

    python -m benchmarks.step_profile --dataset=DIR --dtype=bfloat16 --output=profile.json

Runs steps of an encoder on a BEIR folder's training pairs and random negatives, and one more step
under `jax.profiler`. The time of an operation excludes the operations within it. Shares are
relative to
the time of all devices; the remaining share is time in which a device waited. Kinds are derived
from the names of operations in a CPU's compiled program; the kernels of a GPU have other names.
"""

import argparse
import collections
import re
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.common import print_table, without_path, write
from benchmarks.precision import PRECISIONS
from benchmarks.real_step import RealStep, build
from selfdistill_jax.checkpoints.hub import locate
from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.encoder.flops import training_flops
from selfdistill_jax.train.monitoring.hardware import matmul_rate

KINDS = (
    "products of layers",
    "products of attention",
    "attention but for products",
    "norms, GELU, moves, kept values",
    "embeddings, loss, optimizer, exchange",
)


class Event(NamedTuple):
    """An executed operation: its name, and its start and duration in nanoseconds."""

    name: str
    start: float
    duration: float


def own_times(events: Iterable[Event]) -> dict[str, float]:
    """Seconds of each operation without the operations within it, from the events of one thread.

    >>> own_times([Event("a", 0, 1e9), Event("b", 2e8, 3e8), Event("b", 6e8, 1e8)])
    {'a': 0.6, 'b': 0.4}
    """
    own: dict[str, float] = collections.defaultdict(float)
    open_: list[tuple[float, str]] = []
    for event in sorted(events, key=lambda e: (e.start, -e.duration)):
        while open_ and open_[-1][0] <= event.start:
            open_.pop()
        if open_:
            own[open_[-1][1]] -= event.duration
        own[event.name] += event.duration
        open_.append((event.start + event.duration, event.name))
    return {name: round(nanoseconds / 1e9, 9) for name, nanoseconds in own.items()}


def paths(program: str) -> dict[str, str]:
    """Operation -> its place in the source (``op_name``), from the text of a compiled program."""
    found = {}
    for line in program.splitlines():
        if made := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = ", line):
            name = re.search(r'op_name="([^"]*)"', line)
            found[made[1]] = name[1] if name else ""
    return found


def kind_of(name: str, path: str) -> str:
    """The kind of an operation, one of `KINDS`.

    >>> kind_of("ynn_fusion.3", "jit(step)/while/body/Layer_0/inner/dot_general")
    'products of layers'
    >>> kind_of("wrapped_convert", "jit(step)/while/body/Layer_0/attention/cond/branch/convert")
    'attention but for products'
    """
    # Operations that only move the operands of a product have the same path.
    moves = re.match(r"(copy|transpose|bitcast|wrapped|convert)", name)
    product = "dot_general" in path and not moves
    if "attention/cond" in path:
        return KINDS[1] if product else KINDS[2]
    if "while/body" in path or not path:
        return KINDS[0] if product else KINDS[3]
    # Outside of the loops: zeroing the arrays for values that the backward pass needs.
    return KINDS[3] if "broadcast_in_dim" in path and "jvp()/" in path else KINDS[4]


def seconds_of_kinds(folder: Path, names: Mapping[str, str]) -> dict[str, float]:
    """Kind -> seconds summed over all devices, from a trace of `jax.profiler`."""
    (file,) = folder.rglob("*.xplane.pb")
    seconds = dict.fromkeys(KINDS, 0.0)
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            events = [Event(e.name, e.start_ns, e.duration_ns) for e in line.events]
            for name, taken in own_times(events).items():
                if name in names:
                    seconds[kind_of(name, names[name])] += taken
    return seconds


def profile(made: RealStep, steps: int) -> tuple[float, float, dict[str, float]]:
    """Median seconds of a step, seconds of the profiled step, and its seconds by kind."""
    program = made.step.lower(made.state, made.batches[0]).compile()
    state = made.state

    def one() -> float:
        nonlocal state
        begin = time.perf_counter()
        state, metrics = program(state, made.batches[0])
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begin

    one()
    taken = [one() for _ in range(steps)]
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            profiled = one()
        found = seconds_of_kinds(Path(folder), paths(program.as_text()))
    return statistics.median(taken), profiled, found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="BEIR folder with qrels/train.tsv")
    add("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="folder or hub id")
    add("--batch_size", type=int, default=128)
    add("--query_length", type=int, default=20)
    add("--document_length", type=int, default=200)
    add("--dtype", default="float32", choices=PRECISIONS)
    add("--steps", type=int, default=5, help="timed, before the profiled one")
    add("--output", default="", help="JSON file to write")
    options = parser.parse_args(argv)
    names = ("dataset", "model", "batch_size", "query_length", "document_length", "dtype")
    settings = {name: getattr(options, name) for name in names}
    made = build(count=1, **settings)
    middle, profiled, seconds = profile(made, options.steps)
    lengths = jax.device_get(made.batches[0].inputs.lengths).reshape(-1)
    flops = training_flops(read_folder(locate(options.model)).config, lengths)
    rate = matmul_rate(jnp.dtype(options.dtype))
    rows: list[list[Any]] = [["kind", "s", "share"]]
    whole = profiled * made.devices
    waiting = whole - sum(seconds.values())
    for kind, taken in {**seconds, "nothing runs": waiting}.items():
        rows.append([kind, f"{taken / made.devices:.2f}", f"{taken / whole:.1%}"])
    print_table(rows)
    found = {
        "seconds": middle,
        "profiled_seconds": profiled,
        "devices": made.devices,
        "padding_share": 1 - made.useful_tokens / made.computed_tokens,
        "useful_flops": flops,
        "matmul_flops_per_second": rate,
        "utilization": flops / middle / rate,
        "kinds": seconds,
    }
    size = options.batch_size
    print(
        f"\na step {middle:.2f} s (profiled {profiled:.2f}), {size / middle:.1f} triplets/s; "
        f"{flops / middle / 1e9:.0f} GFLOP/s are {found['utilization']:.0%} of the "
        f"{rate / 1e9:.0f} of a product: at 100 % {size * rate / flops:.1f} triplets/s"
    )
    settings |= {name: without_path(settings[name]) for name in ("dataset", "model")}
    write(options.output, {"settings": settings, **found})


if __name__ == "__main__":
    main()
