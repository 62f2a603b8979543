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
# XLA has no estimate for GPUs. This assumes that a GPU reaches at least this share of its peak.
_GPU_SHARE = 0.3


class Estimate(NamedTuple):
    """Holds a range for the seconds that a program takes.

    Attributes:
      least: the longer of ``products`` and ``traffic``.
      most: the time by the compiler's cycles plus ``exchanges``, as if nothing ran in parallel; for
        GPUs ``least`` at `_GPU_SHARE` of the peak plus ``exchanges``.
      products: time of the matrix products at the chip's peak.
      traffic: time of the memory traffic at the chip's bandwidth.
      exchanges: time of the exchanges between devices.
    """

    least: float
    most: float
    products: float
    traffic: float
    exchanges: float


def estimate(program: Program, machine: Machine, *, flops: float, width: int) -> Estimate | None:
    """Returns the estimated time of a program, or None if `Machine.chip` is None.

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
        # In a ring, each byte of a sum is sent twice, and each byte of a gather once.
        passes = 2 if exchange.kind == "all-reduce" else 1
        seconds += exchange.times * passes * exchange.bytes * others / chip.ring
    return seconds
