"""Compiles the step, one program for each shape of a batch; the usual shapes ahead of time."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from selfdistill_jax.data.batches import TripletBatch
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.train.mesh import batch_shapes, put_batch, state_shapes
from selfdistill_jax.train.step import TrainState

Step = Callable[[TrainState, TripletBatch], tuple[TrainState, dict[str, Any]]]


class AheadOfTimeStep:
    """Compiles a step in a background thread.

    Args:
      step: a step from `make_step`.
      mesh: the step's mesh.
      state: the state, or its shapes.
      shapes: shapes of this process's batches, for which programs are compiled one by one.
      base: frozen parameters, passed to every step.

    Attributes:
      seconds: time spent on tracing and compiling programs, or reading them from the cache.
    """

    def __init__(
        self,
        step: Any,
        mesh: jax.sharding.Mesh,
        state: TrainState,
        shapes: Sequence[TripletBatch],
        base: Params | None = None,
    ):
        self._step, self._mesh, self._base = step, mesh, base
        self._state = state_shapes(state, mesh)
        self.seconds = 0.0
        self._thread = ThreadPoolExecutor(1)
        self._programs: dict[tuple, Future[Step]] = {}
        for one in shapes:
            self._submit(one)

    def for_batch(self, batch: TripletBatch) -> Step:
        """Returns the program for a batch of this process; waits for it, or compiles it now."""
        return self._submit(batch).result()

    def _submit(self, batch: TripletBatch) -> "Future[Step]":
        # Shapes vary: `positive_ids` is wider if a query has many positives in the batch.
        shape = tuple(x.shape for x in jax.tree.leaves(batch))
        if shape not in self._programs:
            self._programs[shape] = self._thread.submit(self._compile, batch)
        return self._programs[shape]

    def close(self) -> None:
        """Cancels pending compilations, without waiting for the current one."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compile(self, batch: TripletBatch) -> Step:
        began = time.monotonic()
        shapes = batch_shapes(batch, self._mesh)
        program = self._step.lower(self._state, shapes, self._base).compile()
        self.seconds += time.monotonic() - began
        return lambda state, batch: program(state, put_batch(batch, self._mesh), self._base)
