"""Saves and restores checkpoints by orbax: the train state, and that of model selection."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from selfdistill_jax.io import check_room, full_disk
from selfdistill_jax.train.evaluation.selection import Selection
from selfdistill_jax.train.processes import on_first
from selfdistill_jax.train.step import TrainState

# Bytes of a checkpoint's small files, each rounded up to whole blocks: 0.1 MB measured.
_SMALL_FILES = 1_000_000


class Checkpoints:
    """Saves checkpoints in the background; keeps two, so that a crash while saving loses one.

    Args:
      folder: the folder of all checkpoints, shared by all processes.
    """

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        self._folder = folder.resolve()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """Returns the last step that was saved completely."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, memory: Selection) -> None:
        if step == self.latest():
            return
        # Checked first: on a full disk orbax's threads print pages of tracebacks, and one save may
        # still be running in the background.
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SMALL_FILES
        on_first(lambda: check_room(self._folder, size, f"the checkpoint of step {step}"))
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()), memory=ocp.args.JsonSave(memory._asdict())
        )
        with _full_disk_found():
            saved = self._manager.save(step, args=args, force=True)
        if not saved:
            raise RuntimeError(f"orbax did not save step {step}")

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Selection]:
        """Returns the state saved at a step, in the shapes, types and shardings of ``like``."""
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like._asdict()
        )
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), memory=ocp.args.JsonRestore()
        )
        restored: Any = self._manager.restore(step, args=args)
        return TrainState(**restored["state"]), Selection(**restored["memory"])

    def preempted(self, step: int) -> bool:
        """Returns whether any process of a distributed run was told to end; the same on all."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits for pending writes, and closes the checkpoints."""
        with _full_disk_found():
            self._manager.wait_until_finished()
        self._manager.close()


@contextlib.contextmanager
def _full_disk_found() -> Generator[None]:
    """Turns an error of orbax or tensorstore that a full disk caused into an `OSError`."""
    try:
        yield
    except Exception as error:
        if full := full_disk(error):
            raise full from None
        raise
