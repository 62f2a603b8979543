"""Estimates a training step and encoding on a TPU, by two kinds of output of its compiler.

    python -m benchmarks.tpu_schedule [--topology=v5e:2x4] [--encoder=bert-base] [--set KEY=VALUE …]

Nothing runs on a TPU. "Model" is the sum of the compiler's `estimated_cycles`. "Schedule" counts
the instruction bundles of the final code, one cycle each, for as long as memory traffic and matrix
units take at least; waits that do not overlap are not in it. Attention kernels have no cycles in
the model, so theirs are taken from the schedule. Exchanges between chips are in neither. The
schedule comes from a flag of libtpu that is not documented, so this is not part of the package.
"""

import argparse
import json
import os
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

_DUMP = (
    "--xla_jf_dump_to={} --xla_jf_dump_llo_text=true "
    "--xla_jf_dump_llo_pass_label_regex=.*final_bundles.*"
)
_LINE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(LB|LH|PF|PB|LE|CT)?\s*:\s?[ >]*(.*)$")
_UNITS = 4  # matrix units of a core; each takes a row of 128 values in a cycle
_PARTS = (
    ("attention kernels", r"row_attention"),
    ("attention, products", r"attention/(?:qkv|output|key|query|value)"),
    ("attention, other", r"attention"),
    ("feed-forward", r"/(?:inner|outer|gate)\b|gelu|erf"),
    ("norms", r"norm"),
    ("loop over layers", r"while"),
    ("embeddings", r"embeddings"),
)


class Code(NamedTuple):
    """Holds the cycles of one piece of code, and its loops of unknown length, counted once."""

    cycles: float
    unknown_loops: int


def read_bundles(path: Path) -> Code:
    """Returns the cycles of a file of final bundles, with the rounds of its loops."""

    class Loop:
        def __init__(self, regions: set[str]):
            self.regions, self.bundles, self.rows, self.rounds = regions, 0.0, 0.0, None

    stack, unknown = [Loop(set())], 0

    def end() -> None:
        nonlocal unknown
        loop = stack.pop()
        unknown += loop.rounds is None
        stack[-1].bundles += loop.bundles * (loop.rounds or 1)
        stack[-1].rows += loop.rows * (loop.rounds or 1)

    with path.open() as lines:
        for line in lines:
            if not (found := _LINE.match(line)):
                continue
            label, code = found.groups()
            if label == "LB":
                stack.append(Loop(set(re.findall(r"Start region (\d+)", code))))
            stack[-1].bundles += 1
            for product in re.findall(r"vmatmul[\w.]*", code):
                stack[-1].rows += 8 if ".16." in product else 16
            if len(stack) == 1:
                continue
            if limit := re.search(r"s32\.totalorder %?\S+, (\d+) /\* loop exit test", code):
                stack[-1].rounds = int(limit[1])
            jumps = re.findall(r"sbr\.rel \([^)]*\) target = \$region(\d+)", code)
            if any(jump in stack[-1].regions for jump in jumps):
                end()
    while len(stack) > 1:
        end()
    return Code(max(stack[0].bundles, stack[0].rows / _UNITS), unknown)


def read_dump(folder: Path) -> dict[str, Code]:
    """Returns the code of every instruction in a dump, by the instruction's name."""
    found: dict[str, Code] = {}
    for path in folder.glob("*final_bundles.txt"):
        name = re.match(r"\d+-(.*)-\d+-final_bundles\.txt", path.name)
        if name:
            code = read_bundles(path)
            if name[1] not in found or code.cycles > found[name[1]].cycles:
                found[name[1]] = code
    return found


def by_part(text: str, codes: dict[str, Code], chip: Any) -> dict[str, dict[str, float]]:
    """Returns milliseconds by model and by schedule, and GB of traffic, of each part of a program.

    Args:
      text: the compiled program.
      codes: the result of `read_dump`.
      chip: figures of the chip.
    """
    from selfdistill_jax.plan.hlo import Instruction, executed, parse

    def shape(instruction: Instruction, cycles: float) -> tuple[str, float, str]:
        return instruction.kind, cycles, re.sub(r"\{[^}]*\}", "", instruction.type)

    rows = list(executed(parse(text)))
    # Equal fusions are compiled once.
    equal = {
        shape(instruction, cycles): codes[instruction.name]
        for instruction, _, cycles, _ in rows
        if instruction.name in codes and cycles
    }
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for instruction, times, cycles, traffic in rows:
        if instruction.kind.startswith(("all-", "reduce-scatter", "collective")):
            continue
        part, memory = parts[_part(instruction)], traffic / chip.bandwidth
        part["traffic"] += times * traffic / 1e9
        if instruction.kind == "copy-start":
            continue  # runs beside other instructions
        code = codes.get(instruction.name) or equal.get(shape(instruction, cycles))
        scheduled = code.cycles if code else cycles
        if "tpu_custom_call" in instruction.line:
            cycles = scheduled
        part["model"] += 1e3 * times * cycles / chip.clock
        part["schedule"] += 1e3 * times * max(scheduled / chip.clock, memory)
    return {name: dict(values) for name, values in parts.items()}


def _part(instruction: Any) -> str:
    name = re.search(r'op_name="([^"]*)"', instruction.line)
    if not name:
        return "unnamed"
    if "Encoder" not in name[1]:
        return "loss, metrics, optimizer"
    found = (part for part, pattern in _PARTS if re.search(pattern, name[1]))
    return next(found, "pooling")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--encoder", default="bert-base")
    parser.add_argument("--encode", action="store_true", help="encoding instead of the step")
    parser.add_argument("--passages", type=int, default=8_800_000, help="documents to encode")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--text", type=Path, help="write the compiled program here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIBTPU_INIT_ARGS"] = _DUMP.format(folder)
        from configs import base
        from selfdistill_jax.plan.compile import compile_encoding, compile_step
        from selfdistill_jax.plan.encoders import shapes_of
        from selfdistill_jax.plan.machines import open_tpu, prepare
        from selfdistill_jax.plan.workload import make_plan

        prepare()
        machine = open_tpu(options.topology)
        config = base.get_config("distributed")
        config.data.query_length, config.data.document_length = 20, 200
        config.train.batch_size = 128 * len(machine.devices)
        config.encoder.init, config.encoder.max_length = options.encoder, 512
        for given in options.set:
            key, _, value = given.partition("=")
            config.update_from_flattened_dict({key: int(value) if value.isdecimal() else value})
        plan = make_plan(config, machine, encoder=shapes_of(options.encoder), lengths=(8, 70))
        if options.encode:
            compiled, _ = compile_encoding(plan, machine, passages=options.passages)
        else:
            compiled = compile_step(plan, machine)
        parts = by_part(compiled.text, read_dump(Path(folder)), machine.chip)
    if options.text:
        options.text.write_text(compiled.text)
    assert machine.chip is not None
    total: dict[str, float] = defaultdict(float)
    for name, values in sorted(parts.items(), key=lambda item: -item[1].get("schedule", 0)):
        columns = [values.get(key, 0.0) for key in ("model", "schedule", "traffic")]
        print(f"{name:<28}{columns[0]:>10.2f} ms{columns[1]:>10.2f} ms{columns[2]:>9.2f} GB")
        for key, value in values.items():
            total[key] += value
    peak = 1e3 * compiled.useful_flops / machine.chip.flops
    facts = {
        **{key: round(value, 2) for key, value in total.items()},
        "model_share": round(peak / total["model"], 3),
        "schedule_share": round(peak / total["schedule"], 3),
        "temporaries_gb": round(compiled.memory.temporaries / 1e9, 2),
        "compile_seconds": round(compiled.seconds, 1),
        "rows": [compiled.rows, compiled.row_length],
        "padding": round(1 - compiled.useful_tokens / compiled.rows / compiled.row_length, 3),
        "tokens_per_second": [
            round(1e3 * compiled.useful_tokens / total[key]) for key in ("model", "schedule")
        ],
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
