"""Estimates how long a compiled program runs; nothing here is a measurement."""

from typing import NamedTuple

import numpy as np

from selfdistill_jax.plan.machines import SLICE_BANDWIDTH, Machine
from selfdistill_jax.plan.program import Program

# Cycles of the attention kernels on v5e for a row with 12 heads of 64, by the compiler's schedule
# of the final code: length, forwards, backwards (docs/accelerators.md).
_LENGTHS = (128, 256, 512)
_CYCLES = {"row_attention": (1910, 5123, 17357), "row_attention_backward": (3396, 9683, 36272)}
_WIDTH = 768
# Share of its peak that a GPU reaches at least: an assumption, there is no estimate by XLA.
_GPU_SHARE = 0.3


class Estimate(NamedTuple):
    """Holds a range of seconds for one run of a program.

    Attributes:
      least: the chip's peak rates allow no less, for products or for the traffic of its memory.
      most: by the compiler's cycles, if nothing runs at the same time; None if it has none.
      products, traffic: seconds of products alone and of memory traffic alone, at peak rates.
      exchanges: seconds of exchanges between devices alone, estimated.
    """

    least: float
    most: float | None
    products: float
    traffic: float
    exchanges: float


def estimate(program: Program, machine: Machine, *, flops: float, width: int) -> Estimate | None:
    """Returns the estimated time of a program, or None if the chip's figures are not known.

    Args:
      program: facts about the program of one device.
      machine: the machine.
      flops: operations of its matrix products on one device, padding included.
      width: the encoder's hidden size.
    """
    chip = machine.chip
    if chip is None:
        return None
    products, traffic = flops / chip.flops, program.traffic / chip.bandwidth
    exchanges = _exchange_seconds(program, machine)
    least = max(products, traffic)
    if machine.platform == "gpu":
        return Estimate(least, least / _GPU_SHARE + exchanges, products, traffic, exchanges)
    cycles = program.cycles + sum(
        kernel.times * kernel.rows * _kernel_cycles(kernel.name, kernel.length, width)
        for kernel in program.kernels
    ) * chip.kernels  # fmt: skip
    return Estimate(least, cycles / chip.clock + exchanges, products, traffic, exchanges)


def _kernel_cycles(name: str, length: int, width: int) -> float:
    """Returns the cycles of a kernel for one row on v5e.

    >>> round(_kernel_cycles("row_attention", 256, 768))
    5123
    """
    # The cycles grow with the square of the length, so they are interpolated along squares.
    squares = np.square(_LENGTHS)
    return float(np.interp(length**2, squares, _CYCLES[name])) * width / _WIDTH


def _exchange_seconds(program: Program, machine: Machine) -> float:
    chip, others = machine.chip, 1 - 1 / max(machine.chips, 1)
    assert chip is not None
    seconds = program.slice_bytes / SLICE_BANDWIDTH
    for exchange in program.exchanges:
        # A ring passes each byte of a sum on twice.
        passes = 2 if exchange.kind == "all-reduce" else 1
        seconds += exchange.times * passes * exchange.bytes * others / chip.ring
    return seconds
