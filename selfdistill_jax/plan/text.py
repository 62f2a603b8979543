"""Writes a plan as text, and as plain values for JSON."""

from collections import Counter
from typing import Any

import jax

from selfdistill_jax.plan.compile import Compiled
from selfdistill_jax.plan.fit import Trial
from selfdistill_jax.plan.machines import Machine
from selfdistill_jax.plan.workload import Plan

_GIB = 2**30


def as_values(
    machine: Machine,
    trials: list[Trial],
    encoding: tuple[Compiled, int] | None,
    *,
    passages: int,
    price: float | None,
) -> dict[str, Any]:
    """Returns all facts and estimates as plain values.

    Args:
      machine: the machine.
      trials: attempts to compile the step, the last one with the settings of the plan.
      encoding: facts about the encoding of documents, and the number of documents in a batch.
      passages: number of documents to encode.
      price: dollars for an hour of a chip; None if it was not given.
    """
    found = {
        "machine": {
            "name": machine.name,
            "chip": machine.kind,
            "chips": machine.chips,
            "devices": len(machine.devices),
            "hosts": machine.hosts,
            "slices": machine.slices,
        },
        "step": None,
        "tried": [_trial(trial) for trial in trials],
    }
    compiled, loop = trials[-1].compiled, trials[-1].plan.job.loop
    if compiled is not None:
        batch, steps = loop.batch_size, loop.steps
        found["step"] = _program(compiled, machine) | {"batch_size": batch}
        if seconds := _range(compiled):
            found["step"]["examples_per_second"] = [batch / s for s in reversed(seconds)]
            found["run"] = _total([s * steps for s in seconds], machine, price) | {"steps": steps}
    if encoding is not None:
        of_batch, documents = encoding
        found["encoding"] = _program(of_batch, machine) | {"documents": documents}
        if seconds := _range(of_batch):
            total = [s * passages / documents / len(machine.devices) for s in seconds]
            found["encoding"] |= _total(total, machine, price) | {"passages": passages}
            found["encoding"]["tokens_per_second_and_device"] = [
                of_batch.useful_tokens / s for s in reversed(seconds)
            ]
    return found


def _range(compiled: Compiled) -> list[float] | None:
    """Returns the bounds of a program's estimated seconds; None if there is no estimate."""
    found = compiled.estimate
    return None if found is None else [found.least, found.most]


def _total(seconds: list[float], machine: Machine, price: float | None) -> dict[str, Any]:
    hours = [s / 3600 for s in seconds]
    dollars = None if price is None else [h * machine.chips * price for h in hours]
    return {"hours": hours} | ({} if dollars is None else {"dollars": dollars})


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "changes": trial.changes,
        "fits": trial.compiled is not None,
        "needed_bytes": trial.needed,
        "available_bytes": trial.available,
    }


def _program(compiled: Compiled, machine: Machine) -> dict[str, Any]:
    program, tokens = compiled.program, compiled.rows * compiled.row_length
    found: dict[str, Any] = {
        "memory_bytes": compiled.memory._asdict() | {"total": compiled.memory.total},
        "exchanges": [exchange._asdict() for exchange in program.exchanges],
        "bytes_between_slices": program.slice_bytes,
        "host_calls": program.host_calls,
        "conditionals": program.conditionals,
        "loops": list(program.loops),
        "rows": compiled.rows,
        "row_length": compiled.row_length,
        "useful_tokens": compiled.useful_tokens,
        "padding_share": 1 - compiled.useful_tokens / tokens,
        "useful_flops": compiled.useful_flops,
        "compile_seconds": compiled.seconds,
        "estimate": None if compiled.estimate is None else compiled.estimate._asdict(),
    }
    if machine.chip and (seconds := _range(compiled)):
        useful = compiled.useful_flops / machine.chip.flops
        found["memory_bytes"]["available"] = machine.chip.memory
        found["estimated_share_of_peak"] = [useful / s for s in reversed(seconds)]
    return found


def as_text(found: dict[str, Any], plan: Plan) -> str:
    """Returns a plan as lines of text.

    Args:
      found: the result of `as_values`.
      plan: the run's parts.
    """
    machine, step = found["machine"], found["step"]
    encoder, dtype = plan.model.pretrained.config, plan.job.settings["train"]["dtype"]
    parameters = sum(x.size for x in jax.tree.leaves(plan.model.pretrained.params))
    lines = [
        f"Plan for {machine['name']}: {_count(machine['chips'], 'chip')} ({machine['chip']}), "
        f"{_count(machine['hosts'], 'host')}. Nothing was run there.",
        "",
        _line(
            "encoder",
            f"{plan.model.name}: {encoder.num_layers} layers of {encoder.hidden_size}, "
            f"{parameters / 1e6:,.1f} million parameters, products in {dtype}",
        ),
    ]
    lines += [_line("", _refusal(trial)) for trial in found["tried"] if not trial["fits"]]
    if step is None:
        lines.append(_line("the step", "does not fit with any of these settings"))
    else:
        changes = found["tried"][-1]["changes"]
        if changes:
            given = " ".join(f"--config.{key}={value}" for key, value in changes.items())
            lines.append(_line("fits with", given))
        lines += _step_lines(step)
        if "run" in found:
            run = found["run"]
            lines.append(_line("the run", f"{run['steps']:,} steps: {_cost(run)} (estimate)"))
    if "encoding" in found:
        lines += ["", *_encoding_lines(found["encoding"])]
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def _line(name: str, text: str) -> str:
    return f"  {name:<16}{text}"


def _refusal(trial: dict[str, Any]) -> str:
    given = ", ".join(f"{k} = {v}" for k, v in trial["changes"].items()) or "this config"
    if trial["needed_bytes"] is None:
        return f"{given}: does not fit"
    needed, available = (trial[key] / _GIB for key in ("needed_bytes", "available_bytes"))
    return f"{given}: does not fit, needs {needed:.1f} of {available:.2f} GiB"


def _memory_line(program: dict[str, Any]) -> str:
    memory = {key: value / _GIB for key, value in program["memory_bytes"].items()}
    available = f" of {memory['available']:.0f}" if "available" in memory else ""
    return _line(
        "memory",
        f"{memory['total']:.2f}{available} GiB on each device: {memory['arguments']:.2f} "
        f"parameters, moments and batch, {memory['temporaries']:.2f} temporaries, "
        f"{memory['code']:.2f} code",
    )


def _rows(program: dict[str, Any]) -> str:
    return (
        f"{program['rows']} rows of {program['row_length']} tokens, "
        f"{program['padding_share']:.0%} of them padding"
    )


def _step_lines(step: dict[str, Any]) -> list[str]:
    bytes_of, calls = Counter(), Counter()
    for exchange in step["exchanges"]:
        bytes_of[exchange["kind"]] += exchange["bytes"] * exchange["times"]
        calls[exchange["kind"]] += exchange["times"]
    exchanges = ", ".join(
        f"{size / 1e6:,.2f} MB in {calls[kind]} {kind}" for kind, size in bytes_of.most_common()
    )
    if step["bytes_between_slices"]:
        exchanges += f", {step['bytes_between_slices'] / 1e6:,.1f} MB to another slice"
    lines = [
        _line(
            "batch",
            f"{step['batch_size']:,} examples; on each device {_rows(step)}",
        ),
        _memory_line(step),
        _line("exchanges", exchanges or "none"),
        _line(
            "host",
            f"{step['host_calls'] or 'no'} calls, {step['conditionals'] or 'no'} conditionals",
        ),
        _line("compiling", f"{step['compile_seconds']:.0f} s here"),
    ]
    if "examples_per_second" in step:
        low, high = (1e3 * step["estimate"][key] for key in ("least", "most"))
        lines.append(
            _line(
                "a step",
                f"{low:,.1f} to {high:,.1f} ms (estimate), "
                f"{_range_of(step['examples_per_second'])} examples/s, "
                f"{_shares(step)} of the peak",
            )
        )
    else:
        lines.append(_line("a step", "no estimate: the figures of this chip are not listed"))
    return lines


def _encoding_lines(encoding: dict[str, Any]) -> list[str]:
    lines = [
        "Encoding documents (on the devices; reading and tokenizing are not counted):",
        "",
        _line(
            "batch",
            f"{encoding['documents']:,} documents in {_rows(encoding)}",
        ),
        _memory_line(encoding),
    ]
    if "hours" in encoding:
        lines += [
            _line(
                "speed",
                f"{_range_of(encoding['tokens_per_second_and_device'])} tokens/s on each device "
                f"(estimate), {_shares(encoding)} of the peak",
            ),
            _line(f"{encoding['passages']:,}", f"{_cost(encoding)} (estimate)"),
        ]
    return lines


def _range_of(values: list[float]) -> str:
    """Returns two numbers with two digits each, since they are estimates.

    >>> _range_of([1234.5, 56789.0])
    '1,200 to 57,000'
    """
    return " to ".join(f"{float(f'{value:.2g}'):,.0f}" for value in values)


def _shares(program: dict[str, Any]) -> str:
    low, high = program["estimated_share_of_peak"]
    return f"{low:.0%} to {high:.0%}"


def _cost(total: dict[str, Any]) -> str:
    low, high = total["hours"]
    units = (("hours", 1), ("minutes", 60), ("seconds", 3600))
    unit, scale = next((u for u in units if high * u[1] >= 1), units[-1])
    text = f"{low * scale:,.1f} to {high * scale:,.1f} {unit}"
    if "dollars" in total:
        text += ", ${:,.2f} to ${:,.2f}".format(*total["dollars"])
    return text
