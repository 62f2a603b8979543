"""Reads the text of a compiled program (HLO): which instructions run, how often, at what cost."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# Bytes of an element; those of other types have four.
_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8,
    "f64": 8,
}  # fmt: skip
ARRAY = re.compile(r"\b(pred|bf16|f16|f32|f64|[su]\d+)\[([\d,]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
# These instructions move no data themselves.
_FREE = {
    "parameter", "get-tuple-element", "tuple", "constant", "bitcast", "partition-id", "after-all",
    "copy-done", "slice-done", "async-done", "all-gather-done", "all-reduce-done", "send-done",
    "recv-done", "opt-barrier", "slice-start",
}  # fmt: skip
_FREE_CALLS = re.compile(r'custom_call_target="(?:AllocateBuffer|AssumeGather\w*|ConcatBitcast)"')
_IN_CHIP = "S("  # part of the layout of arrays that lie in the chip, not in the main memory


class Instruction(NamedTuple):
    """Holds one instruction; ``type`` is the text of its result's type, ``line`` the whole line."""

    name: str
    kind: str
    type: str
    operands: tuple[str, ...]
    line: str
    is_root: bool


class Executed(NamedTuple):
    """Describes how often an instruction runs in a program.

    Attributes:
      instruction: the instruction.
      times: how often it runs.
      cycles: the compiler's estimate of one run; 0 if it has none.
      traffic: bytes of the device's memory that one run reads and writes.
    """

    instruction: Instruction
    times: int
    cycles: float
    traffic: float


_Computation = dict[str, Instruction]


class Module(NamedTuple):
    """Holds the computations of a program, by their names, and the name of the first."""

    computations: dict[str, _Computation]
    entry: str


def executed(module: Module) -> Iterator[Executed]:
    """Yields each instruction that runs in a compiled program; for a loop, those of its body."""
    yield from _executed(*module)


def loop_rounds(module: Module) -> tuple[int | None, ...]:
    """Returns the number of rounds of each loop; None if it is not a constant."""
    loops = (i for body in module.computations.values() for i in body.values())
    return tuple(_rounds(module.computations, i) for i in loops if i.kind == "while")


def array_sizes(text: str) -> list[int]:
    """Returns the number of elements of each array in a text.

    >>> array_sizes("(f32[2,3]{1,0}, bf16[4])")
    [6, 4]
    """
    return [_elements(shape) for _, shape, _ in ARRAY.findall(text)]


def array_bytes(text: str) -> list[int]:
    """Returns the bytes of each array in a text.

    >>> array_bytes("(f32[2,3]{1,0}, bf16[4])")
    [24, 8]
    """
    return [_BYTES.get(kind, 4) * _elements(shape) for kind, shape, _ in ARRAY.findall(text)]


def _elements(shape: str) -> int:
    return math.prod(map(int, filter(None, shape.split(","))))


def parse(text: str) -> Module:
    """Returns the computations in the result of ``compiled.as_text()``."""
    computations: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            kind_of_result, rest = _split_type(found[3])
            if call := re.match(r"([\w-]+)\(", rest):
                end = _closing(rest, call.end() - 1)
                operands = tuple(re.findall(r"%([\w.-]+)", rest[call.end() : end]))
                current[found[2]] = Instruction(
                    found[2], call[1], kind_of_result, operands, line, bool(found[1])
                )
    return Module(computations, entry)


def _split_type(text: str) -> tuple[str, str]:
    """Splits the right side of an assignment into the result's type and the rest."""
    if text.startswith("("):
        end = _closing(text, 0) + 1
        return text[:end], text[end:].lstrip()
    kind, _, rest = text.partition(" ")
    return kind, rest


def _closing(text: str, start: int) -> int:
    """Returns the place of the bracket that closes the one at ``start``."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return len(text)


def _executed(
    computations: dict[str, _Computation], name: str, times: int = 1
) -> Iterator[Executed]:
    where = computations[name]
    for instruction in where.values():
        if instruction.kind == "while":
            rounds = _rounds(computations, instruction) or 1
            yield from _executed(computations, _named(instruction, "body"), times * rounds)
            continue
        if instruction.kind in ("call", "async-start"):
            called = _named(instruction, "to_apply") or _named(instruction, "calls")
            if called in computations:
                yield from _executed(computations, called, times)
                continue
        cycles = re.search(r'estimated_cycles":"(\d+)"', instruction.line)
        free = instruction.kind in _FREE or _FREE_CALLS.search(instruction.line)
        traffic = 0.0 if free else _traffic(computations, where, instruction)
        yield Executed(instruction, times, float(cycles[1]) if cycles else 0.0, traffic)


def _named(instruction: Instruction, attribute: str) -> str:
    found = re.search(rf"\b{attribute}=%?([\w.-]+)", instruction.line)
    return found[1] if found else ""


def _rounds(computations: dict[str, _Computation], loop: Instruction) -> int | None:
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.line):
        return int(known[1])
    # On TPUs, the condition compares the counter, which starts at 0, with a constant.
    condition = computations[_named(loop, "condition")].values()
    limits = [re.search(r"s32\[\]\S* constant\((\d+)\)", i.line) for i in condition]
    found = [int(limit[1]) for limit in limits if limit]
    return found[0] if len(found) == 1 else None


def _traffic(
    computations: dict[str, _Computation], where: _Computation, instruction: Instruction
) -> float:
    """Returns the bytes that an instruction reads from and writes to the device's memory."""
    fused = computations.get(_named(instruction, "calls"))
    written = _written(computations, fused) if fused else array_bytes(instruction.type)
    results = zip(written, ARRAY.findall(instruction.type), strict=False)
    total = sum(size for size, (_, _, layout) in results if _IN_CHIP not in layout)
    if instruction.kind.endswith("-start"):
        return total  # the type lists the operands, too
    if instruction.kind == "dynamic-slice":
        return 2 * total
    if instruction.kind == "dynamic-update-slice":
        return 2 * sum(_in_memory(where, instruction.operands[1]))
    for number, operand in enumerate(instruction.operands):
        whole = sum(_in_memory(where, operand))
        total += _read(computations, fused, number, whole) if fused and whole else whole
    return total


def _in_memory(where: _Computation, name: str) -> list[int]:
    if name not in where:
        return []
    arrays = zip(array_bytes(where[name].type), ARRAY.findall(where[name].type), strict=True)
    return [size for size, (_, _, layout) in arrays if _IN_CHIP not in layout]


def _read(
    computations: dict[str, _Computation], fused: _Computation, number: int, whole: int
) -> int:
    """Returns the bytes of an operand that a fused computation reads: of slices, only these."""
    names = [
        i.name
        for i in fused.values()
        if i.kind == "parameter" and re.search(rf"parameter\({number}\)", i.line)
    ]
    total = 0
    while names:
        name = names.pop()
        for user in (i for i in fused.values() if name in i.operands):
            if user.kind == "bitcast":
                names.append(user.name)
            elif user.kind == "dynamic-slice" and user.operands[0] == name:
                total += sum(array_bytes(user.type))
            elif user.kind == "fusion":
                inner = computations[_named(user, "calls")]
                places = [n for n, operand in enumerate(user.operands) if operand == name]
                total += sum(_read(computations, inner, place, whole) for place in places)
            elif user.kind != "dynamic-update-slice" or user.operands[0] != name:
                return whole
    return min(total, whole)


def _written(computations: dict[str, _Computation], fused: _Computation) -> list[int]:
    """Returns the bytes that a fused computation writes of each result: of an update, only it."""
    (root,) = (i for i in fused.values() if i.is_root)

    def of(instruction: Instruction) -> list[int]:
        while instruction.kind == "bitcast" and instruction.operands[0] in fused:
            instruction = fused[instruction.operands[0]]
        if instruction.kind == "dynamic-update-slice":
            return [sum(array_bytes(fused[instruction.operands[1]].type))]
        if instruction.kind == "tuple":
            return [size for name in instruction.operands for size in of(fused[name])]
        if instruction.kind == "fusion":
            return _written(computations, computations[_named(instruction, "calls")])
        return array_bytes(instruction.type)

    return of(root)
