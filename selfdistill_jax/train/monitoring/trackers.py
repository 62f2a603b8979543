"""Sends a run's numbers to TensorBoard or Weights & Biases."""

import importlib
import importlib.util
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import write_text

TRACKERS = ("tensorboard", "wandb", "none")
_STEP = "training_step"
_WANDB_ID = "wandb-id.txt"


class Tracker(Protocol):
    """Receives numbers by name and step; used by one thread."""

    def write(self, numbers: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes event files to ``tensorboard/`` in the run's folder.

    Args:
      workdir: the run's folder.
      begin: the step that the run starts from; earlier events of later steps are hidden.
    """

    def __init__(self, workdir: Path, begin: int):
        import tensorboardX  # imports torch if that is installed: 2 to 4 s

        purge = begin + 1 if begin else None
        self._writer = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=purge)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Logs to Weights & Biases; the library's own variables (``WANDB_PROJECT`` …) apply.

    The id of the run there is stored in the run's folder, so that a resumed run continues it.

    Args:
      workdir: the run's folder.
      settings: the run's config, shown with the run.
    """

    def __init__(self, workdir: Path, settings: Mapping[str, Any]):
        wandb: Any = importlib.import_module("wandb")  # optional

        path = workdir / _WANDB_ID
        if not path.is_file():
            write_text(path, secrets.token_hex(8))
        self._run = wandb.init(
            dir=str(workdir),
            id=path.read_text().strip(),
            resume="allow",
            name=workdir.name,
            config=dict(settings),
        )
        self._run.define_metric("*", step_metric=_STEP)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        # A field and not W&B's own step, which drops the steps that a resumed run repeats.
        if numbers:
            self._run.log({**numbers, _STEP: step})

    def close(self) -> None:
        self._run.finish()


def check_tracker(name: str) -> None:
    """Checks that a tracker can be used.

    Raises:
      InputError: its library is not installed, or it would ask for a key.
    """
    if name != "wandb":
        return
    found = importlib.util.find_spec("wandb")
    if found is None or found.origin is None:  # without an origin: a run's folder of that name
        raise InputError(
            "config.train.tracker is 'wandb', but the package is not installed; run "
            "`pip install wandb`, or set it to 'tensorboard' or 'none'"
        )
    if os.environ.get("WANDB_MODE", "online") != "online" or os.environ.get("WANDB_API_KEY"):
        return
    wandb: Any = importlib.import_module("wandb")
    if not getattr(getattr(wandb, "api", None), "api_key", None):
        raise InputError(
            "config.train.tracker is 'wandb', but there is no key for it; run `wandb login`, or "
            "set WANDB_API_KEY or WANDB_MODE=offline"
        )


def open_tracker(
    name: str, workdir: Path, settings: Mapping[str, Any], *, begin: int
) -> Tracker | None:
    """Opens a tracker; None for "none".

    Args:
      name: one of `TRACKERS`.
      workdir: the run's folder.
      settings: the run's config as plain values.
      begin: the step that the run starts from.
    """
    if name == "tensorboard":
        return TensorBoard(workdir, begin)
    return WeightsAndBiases(workdir, settings) if name == "wandb" else None
