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
      compiled: facts about the step; None if it does not fit.
      needed, available: bytes on a device, if it does not fit; None: unknown.
    """

    changes: dict[str, Any]
    compiled: Compiled | None
    needed: float | None = None
    available: float | None = None


def compile_until_it_fits(
    make: Callable[[dict[str, Any]], Plan],
    machine: Machine,
    *,
    tried: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Compiles the step of a run; if it does not fit, with other settings until one does.

    A compilation that fails for lack of memory takes seconds, a successful one a minute, so the
    search ends with the first that fits.

    Args:
      make: returns the run's parts with changed settings, as ``{"train.micro_batches": 2}``.
      machine: the machine.
      tried: called after each attempt.

    Returns:
      All attempts, the one that fits last if there is one.
    """
    plan = make({})
    trials = [_try(plan, {}, machine)]
    tried(trials[-1])
    for changes in _changes(plan.job.settings["train"], machine):
        if trials[-1].compiled:
            break
        trials.append(_try(make(changes), changes, machine))
        tried(trials[-1])
    return trials


def _try(plan: Plan, changes: dict[str, Any], machine: Machine) -> Trial:
    try:
        return Trial(changes, compile_step(plan, machine))
    except DoesNotFitError as error:
        return Trial(changes, None, error.needed, error.available)


def _changes(train: dict[str, Any], machine: Machine) -> Iterator[dict[str, Any]]:
    """Yields settings that need less memory, those that cost least time first."""
    devices = len(machine.devices)
    each = devices // machine.slices
    parts = [
        n
        for n in (2, 4, 8, 16)
        if n > train["micro_batches"] and train["batch_size"] % (n * devices) == 0
    ]
    inputs = {"train.remat": "inputs"} if train["remat"] != "inputs" else {}
    sharded = {"train.fsdp": each} if train["fsdp"] < each else {}
    for count in parts[:2]:
        yield {"train.micro_batches": count}
    if inputs:
        yield inputs
    for count in parts[2:]:
        yield {"train.micro_batches": count}
    most = {"train.micro_batches": parts[-1]} if parts else {}
    if sharded:
        yield sharded
        if most:
            yield sharded | most
    if len(rest := sharded | most | inputs) > 1:
        yield rest
