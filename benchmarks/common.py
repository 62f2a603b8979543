"""Parts that benchmarks share: processes that run in turn, their memory, the machine, tables."""

import argparse
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.precision import PRECISIONS, faster
from selfdistill_jax.errors import InputError

# As in `make demo`: without huge pages the kernel takes half of the time at large sizes.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")

# Packages that the sides of comparisons need.
NEEDS = {
    "ours": (),
    "released": ("torch", "transformers"),
    "sentence_transformers": ("torch", "sentence_transformers", "datasets", "accelerate"),
}
Setup = Callable[..., tuple[Callable[[], Any], dict[str, Any]]]


class Worker:
    """Runs one side in a separate process, so that its memory can be measured alone.

    Args:
      setup: module-level function; ``setup(**arguments)`` returns the function to time, which has
        no arguments and returns when its work is done, and facts for the record.
      arguments: picklable.
    """

    def __init__(self, setup: Setup, **arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, setup, arguments))
        self._process.start()
        theirs.close()
        self.facts: dict[str, Any] = self._pipe.recv()

    def run(self) -> float:
        """Seconds of one call."""
        self._pipe.send("run")
        return self._pipe.recv()

    def close(self) -> float:
        """Ends the process; returns its peak memory in GB."""
        self._pipe.send("end")
        peak = self._pipe.recv()
        self._process.join()
        return peak


def _serve(pipe, setup: Setup, arguments: dict[str, Any]) -> None:
    run, facts = setup(**arguments)
    pipe.send(facts)
    while pipe.recv() == "run":
        begin = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - begin)
    # Imported here: it imports jax, which a benchmark may have to configure first.
    from selfdistill_jax.train.monitoring.hardware import host_peak_gb

    pipe.send(host_peak_gb())


def alternate(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[float]]:
    """Seconds of each worker's calls, in turn, so that other load affects all workers."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(rounds + 1):
        for name, worker in workers.items():
            taken = worker.run()
            if number:  # the first call warms up
                seconds[name].append(taken)
    return seconds


def memory_gb() -> float:
    """Memory of this machine in GB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


def summary(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def machine() -> dict[str, Any]:
    import jax

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gb": round(memory_gb(), 1),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def print_table(rows: Sequence[Sequence[Any]]) -> None:
    """Prints rows as a table; the first row is the head."""
    # Imported here: it imports jax, which a benchmark may have to configure first.
    from selfdistill_jax.retrieval.text_table import format_table

    head, *rest = ([str(cell) for cell in row] for row in rows)
    print(format_table(rest, head))


def write(path: str, result: Mapping[str, Any]) -> None:
    if path:
        Path(path).write_text(json.dumps({"machine": machine(), **result}, indent=2) + "\n")
        print(f"\nwritten to {path}")


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, sides: Iterable[str]
) -> argparse.Namespace:
    """Adds the flags that comparisons with peers share, and parses the command line."""
    add = parser.add_argument
    add("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="folder or hub id")
    add("--sides", default=",".join(sides), help="which ones, separated by commas")
    add("--rounds", type=int, default=3)
    add("--output", default="", help="JSON file to write")
    for side in ("ours", "peers"):
        text = "best: the one in which its library multiplies faster here"
        add(f"--{side}_precision", default="best", choices=["best", *PRECISIONS], help=text)
    options = parser.parse_args(argv)
    options.sides = options.sides.split(",")
    if unknown := set(options.sides) - set(sides):
        parser.error(f"--sides: no {', '.join(sorted(unknown))}; there are {', '.join(sides)}")
    return options


def precisions(options: argparse.Namespace) -> dict[str, str]:
    """Side -> the requested precision, or the faster one."""
    found = {}
    for side in options.sides:
        asked = options.ours_precision if side == "ours" else options.peers_precision
        found[side] = faster(side) if asked == "best" else asked
    return found


def without_path(name: str) -> str:
    """The last part of a folder's path; a hub id unchanged."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of a comparison for the record, without paths of this machine."""
    packages = sorted({name for side in options.sides for name in NEEDS[side]})
    return {
        "dataset": without_path(options.dataset),
        "model": without_path(options.model),
        "rounds": options.rounds,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def run(measure: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Runs ``measure``; wrong input and missing libraries exit with a one-line message."""
    try:
        check_libraries(options.sides)
        measure(options)
    except InputError as error:
        sys.exit(f"error: {error}")


def check_libraries(sides: Sequence[str]) -> None:
    """Raises InputError if a side's library is not installed."""
    for side in sides:
        if missing := [name for name in NEEDS[side] if find_spec(name) is None]:
            raise InputError(
                f"{side} needs {', '.join(missing)}: install the extra `peers` "
                "(pip install '.[peers]', or make peers), or leave the side out, "
                "as in --sides=ours"
            )
