"""Reads facts from the text of a compiled program: exchanges, host calls, memory traffic."""

import re
from typing import NamedTuple

from selfdistill_jax.plan.hlo import (
    ARRAY,
    Instruction,
    array_bytes,
    executed,
    loop_rounds,
    parse,
)

_EXCHANGE = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?$"
)


class Exchange(NamedTuple):
    """Describes one exchange between devices."""

    kind: str
    bytes: int  # of its results
    times: int  # in a step


class Kernel(NamedTuple):
    """Describes one call of a kernel of `encoder.tpu.row_attention`."""

    name: str
    rows: int
    length: int
    times: int


class Program(NamedTuple):
    """Holds facts about one run of a compiled program, on one device.

    Attributes:
      exchanges: exchanges between devices.
      loops: number of rounds of each loop; None if it is not a constant.
      conditionals: number of branches that depend on data.
      host_calls: number of calls of the host.
      slice_bytes: bytes sent to another slice of TPUs.
      kernels: calls of the Pallas kernels for attention.
      cycles: the compiler's estimate of clock cycles, without kernels and exchanges; 0 on GPUs.
      traffic: bytes read from and written to the device's memory.
    """

    exchanges: tuple[Exchange, ...]
    loops: tuple[int | None, ...]
    conditionals: int
    host_calls: int
    slice_bytes: int
    kernels: tuple[Kernel, ...]
    cycles: float
    traffic: float


def read_program(text: str) -> Program:
    """Returns facts about a compiled program.

    Args:
      text: the result of ``compiled.as_text()``.
    """
    module = parse(text)
    exchanges, kernels = [], []
    cycles = traffic = 0.0
    slice_bytes = 0
    for instruction, times, its_cycles, its_traffic in executed(module):
        cycles += times * its_cycles
        traffic += times * its_traffic
        if exchange := _EXCHANGE.match(instruction.kind):
            size = sum(array_bytes(_last_part(instruction)))
            exchanges.append(Exchange(exchange[1], size, times))
        elif instruction.kind == "send":
            slice_bytes += times * sum(array_bytes(instruction.type))
        if kernel := _kernel(instruction, times):
            kernels.append(kernel)
    return Program(
        tuple(exchanges),
        loop_rounds(module),
        len(re.findall(r" conditional\(", text)),
        len(re.findall(r" (?:infeed|outfeed)\(|callback", text)),
        slice_bytes,
        tuple(kernels),
        cycles,
        traffic,
    )


def _last_part(instruction: Instruction) -> str:
    """Returns the type of the results, without the operands that a started exchange lists first."""
    if not instruction.kind.endswith("-start") or instruction.kind == "all-reduce-start":
        return instruction.type
    arrays = list(ARRAY.finditer(instruction.type))
    half = [a[0] for a in arrays if a[2]]  # without counters
    return " ".join(half[len(half) // 2 :])


def _kernel(instruction: Instruction, times: int) -> Kernel | None:
    if "tpu_custom_call" not in instruction.line:
        return None
    name = re.search(r"row_attention(_backward)?", instruction.name + instruction.line)
    rows = re.search(r"s32\[(\d+),1,(\d+)\]", instruction.line)
    if not name or not rows:
        return None
    return Kernel(name[0], int(rows[1]), int(rows[2]), times)
