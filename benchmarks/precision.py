"""Finds the precision in which a library is faster on this machine.

    python -m benchmarks.precision torch

Measures a matrix product, not a training step: on a processor without 16-bit units torch multiplies
bfloat16 at 2 GFLOP/s (Zen 3, torch 2.13), and one training step would take half an hour.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRECISIONS = ("bfloat16", "float32")
# Large enough for a clear result on a GPU; on a CPU the slowest product takes a second.
_SIZES = {"cpu": 768, "gpu": 8192}
# For both precisions in turn. With only three products of 1 ms each, a machine with 190 GFLOP/s in
# float32 and 370 in bfloat16 appeared faster in float32 one time in four.
_SECONDS = 2.0
_ROOT = Path(__file__).resolve().parent.parent


def faster(side: str) -> str:
    """The faster precision of a side: "ours", or a side that uses torch. Runs in a new process."""
    library = "jax" if side == "ours" else "torch"
    command = [sys.executable, "-m", "benchmarks.precision", library]
    done = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True)
    rates = json.loads(done.stdout)
    shown = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in rates.items())
    print(f"{side}, products in GFLOP/s: {shown}", flush=True)
    return max(rates, key=rates.__getitem__)


def rates(library: str) -> dict[str, float]:
    """Precision -> FLOP/s of a product of square matrices."""
    size, product = {"jax": _jax, "torch": _torch}[library]()
    multiply = {precision: product(precision) for precision in PRECISIONS}
    for one in multiply.values():
        one()
    best = dict.fromkeys(PRECISIONS, float("inf"))
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        for precision, one in multiply.items():
            begin = time.perf_counter()
            one()
            best[precision] = min(best[precision], time.perf_counter() - begin)
    return {precision: 2 * size**3 / seconds for precision, seconds in best.items()}


def _jax() -> tuple[int, Callable[[str], Callable[[], Any]]]:
    import jax
    import jax.numpy as jnp

    from selfdistill_jax.encoder.cpu.matmul import product

    size = _SIZES["cpu" if jax.default_backend() == "cpu" else "gpu"]

    def make(precision: str) -> Callable[[], Any]:
        a = jax.random.normal(jax.random.key(0), (size, size)).astype(jnp.dtype(precision))
        multiply = jax.jit(product)
        return lambda: multiply(a, a).block_until_ready()

    return size, make


def _torch() -> tuple[int, Callable[[str], Callable[[], Any]]]:
    import torch

    cuda = torch.cuda.is_available()
    size = _SIZES["gpu" if cuda else "cpu"]
    if cuda:
        torch.set_float32_matmul_precision("high")  # as in the sides

    def make(precision: str) -> Callable[[], Any]:
        a = torch.randn(size, size, device="cuda" if cuda else "cpu")
        a = a.to(getattr(torch, precision))

        def multiply() -> None:
            a @ a
            if cuda:
                torch.cuda.synchronize()

        return multiply

    return size, make


if __name__ == "__main__":
    print(json.dumps(rates(sys.argv[1])))
