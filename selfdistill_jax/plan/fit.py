"""Finds settings that make a run fit into a machine's memory, by compiling it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from selfdistill_jax.plan.compile import Compiled, DoesNotFitError, compile_step
from selfdistill_jax.plan.machines import Machine
from selfdistill_jax.plan.workload import Plan


class Trial(NamedTuple):
    """Holds the result of one attempt.

    Attributes:
      changes: settings that differ from the config, by their names.
      plan: the run's parts with these settings.
      compiled: facts about the step; None if it does not fit.
      needed, available: bytes of a device's memory, if the step does not fit and they are known.
    """

    changes: dict[str, Any]
    plan: Plan
    compiled: Compiled | None
    needed: float | None = None
    available: float | None = None


def compile_until_it_fits(
    make: Callable[[dict[str, Any], Plan | None], Plan],
    machine: Machine,
    *,
    tried: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Compiles the step of a run, and, if it does not fit, compiles it with other settings.

    It stops at the first settings that fit. An attempt takes a minute if the step fits, and only
    seconds if it needs too much memory.

    Args:
      make: returns the run's parts, given changed settings such as ``{"train.micro_batches": 2}``
        and the plan without changes; that is None at the first call.
      machine: the machine.
      tried: called after each attempt.

    Returns:
      All attempts, the one that fits last if there is one.
    """
    first = make({}, None)
    trials = [_try({}, first, machine)]
    tried(trials[-1])
    for changes in _changes(first.job.settings["train"], machine):
        if trials[-1].compiled:
            break
        trials.append(_try(changes, make(changes, first), machine))
        tried(trials[-1])
    return trials


def _try(changes: dict[str, Any], plan: Plan, machine: Machine) -> Trial:
    try:
        return Trial(changes, plan, compile_step(plan, machine))
    except DoesNotFitError as error:
        return Trial(changes, plan, None, error.needed, error.available)


def _changes(train: dict[str, Any], machine: Machine) -> Iterator[dict[str, Any]]:
    """Yields settings that need less memory, those that cost the least time first."""
    devices = len(machine.devices)
    each = devices // machine.slices
    micro_batches: list[dict[str, Any]] = [
        {"train.micro_batches": n}
        for n in (2, 4, 8, 16)
        if n > train["micro_batches"] and train["batch_size"] % (n * devices) == 0
    ]
    inputs = {"train.remat": "inputs"} if train["remat"] != "inputs" else {}
    sharded = {"train.fsdp": each} if train["fsdp"] < each else {}
    most = micro_batches[-1] if micro_batches else {}
    yielded: list[dict[str, Any]] = [{}]
    for changes in (
        *micro_batches[:2], inputs, *micro_batches[2:], sharded, sharded | most,
        sharded | most | inputs,
    ):  # fmt: skip
        if changes not in yielded:
            yielded.append(changes)
            yield changes
