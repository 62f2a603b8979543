"""Compiles a run's step, and the encoding of documents, for a machine that is not at hand."""

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.stages import Lowered

from selfdistill_jax.data.batches import TrainingBatches
from selfdistill_jax.data.encoding_batches import choose_capacity, pack, split_by_length
from selfdistill_jax.encoder.apply import make_encode
from selfdistill_jax.encoder.flops import forward_flops, training_flops
from selfdistill_jax.plan.estimate import Estimate, estimate
from selfdistill_jax.plan.machines import Machine
from selfdistill_jax.plan.program import Program, read_program
from selfdistill_jax.plan.workload import Plan
from selfdistill_jax.retrieval.encode_corpus import AXIS, on_mesh
from selfdistill_jax.train.data.dataset import batch_options
from selfdistill_jax.train.mesh import batch_shapes, state_shapes
from selfdistill_jax.train.run import run_step

# Share of a GPU's memory that programs may use. For TPUs the compiler itself checks the size.
_GPU_MEMORY = 0.92
_ENCODED = 20_000  # size of the sample of documents whose encoding is compiled


class DoesNotFitError(Exception):
    """Raised if a program needs more memory than a device has."""

    def __init__(self, needed: float | None, available: float | None):
        super().__init__(needed, available)
        self.needed, self.available = needed, available  # bytes; None: unknown


class Memory(NamedTuple):
    """Holds the bytes that a program needs on a device."""

    arguments: int  # parameters, optimizer state and the batch
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        return sum(self)


class Compiled(NamedTuple):
    """Holds facts about a compiled program.

    Attributes:
      text: the compiled program (HLO).
      program: see `read_program`.
      memory: the memory that it needs on each device.
      estimate: its estimated time; None if `Machine.chip` is None.
      seconds: time of tracing and compiling.
      rows: number of rows on each device, of ``row_length`` tokens.
      useful_tokens: tokens on each device that are not padding, in one batch.
      useful_flops: operations on each device for these tokens.
    """

    text: str
    program: Program
    memory: Memory
    estimate: Estimate | None
    seconds: float
    rows: int
    row_length: int
    useful_tokens: float
    useful_flops: float


def compile_step(plan: Plan, machine: Machine) -> Compiled:
    """Compiles a run's training step for the largest of the usual batches.

    Raises:
      DoesNotFitError: the program needs more memory than a device has.
    """
    job, model, texts = plan
    settings, encoder = job.data, model.pretrained
    devices = len(machine.devices)
    vectors = None
    if settings.frozen_documents:
        vectors = np.zeros((len(texts.documents), encoder.dimensions), np.float32)
    batches = TrainingBatches(
        texts.queries,
        texts.documents,
        texts.examples,
        known=texts.known,
        pool=texts.pool,
        candidates=None,
        vectors=vectors,
        **batch_options(settings, devices=devices, accelerator=True),
    )
    first, *_, largest = batches.shapes()
    step, state = run_step(job, model)
    base = model.trained.base
    arguments = (
        state_shapes(state, job.mesh),
        batch_shapes(largest, job.mesh),
        None if base is None else state_shapes(base, job.mesh),
    )
    (length,) = first.inputs.row_lengths
    rows = largest.inputs.ids.size // length // devices
    kinds = {
        "frozen": base is not None,
        "backward": model.trained.through_layers,
        "target": job.target_encoder,
    }
    computed = np.full(rows, length)
    flops = training_flops(encoder.config, computed, **kinds)
    # Micro-batches, and saving only the layers' inputs, each cost one more forward pass.
    again = (settings.micro_batches > 1) + (job.settings["train"]["remat"] == "inputs")
    flops += again * forward_flops(encoder.config, computed)
    used = batches[0].inputs.lengths.reshape(-1)
    return _compile(
        lambda: step.lower(*arguments),
        machine,
        flops=flops,
        width=encoder.config.hidden_size,
        rows=rows,
        row_length=length,
        useful_tokens=float(used.sum()) / devices,
        useful_flops=training_flops(encoder.config, used, **kinds) / devices,
    )


def compile_encoding(plan: Plan, machine: Machine, *, passages: int) -> tuple[Compiled, int]:
    """Compiles the encoding of a batch of documents on one device.

    If the documents are split by their lengths (`split_by_length`), it compiles for the part that
    has the most tokens.

    Args:
      plan: the run's parts.
      machine: the machine.
      passages: number of documents of the collection.

    Returns:
      Facts about the program, and the number of documents in a batch.

    Raises:
      DoesNotFitError: the program needs more memory than a device has.
    """
    encoder = plan.model.pretrained
    documents = plan.texts.documents
    picked = np.random.default_rng(0).integers(len(documents), size=_ENCODED)
    tokens = documents.take(picked)
    lengths = tokens.lengths(encoder.max_length)
    split = split_by_length(lengths, copies=passages / len(lengths) / len(machine.devices))
    largest = max(split, key=lambda part: lengths[part].sum())
    capacity, parts = choose_capacity(
        lengths[largest], limit=encoder.max_length, parts=1, accelerator=True
    )
    group = largest[np.argsort(-lengths[largest], kind="stable")][::parts]
    batch = pack(tokens, lengths, [group], capacity=capacity, limit=encoder.max_length)
    encode = make_encode(
        encoder.config,
        pooling=encoder.pooling,
        dense=encoder.dense,
        dtype=plan.job.dtype,
        backend="plain",
    )
    kinds = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), (AXIS,), axis_types=kinds, devices=machine.devices[:1])

    def placed(tree: Any, spec: jax.P) -> Any:
        sharding = jax.NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    program: Any = on_mesh(encode, mesh)
    (length,) = batch.row_lengths
    rows = batch.ids.size // length
    compiled = _compile(
        lambda: program.lower(placed(encoder.params, jax.P()), placed(batch, jax.P(AXIS))),
        machine,
        flops=forward_flops(encoder.config, np.full(rows, length)),
        width=encoder.config.hidden_size,
        rows=rows,
        row_length=length,
        useful_tokens=float(batch.lengths.sum()),
        useful_flops=forward_flops(encoder.config, batch.lengths.reshape(-1)),
    )
    return compiled, len(group)


def _compile(
    lower: Callable[[], Lowered], machine: Machine, *, flops: float, width: int, **facts: Any
) -> Compiled:
    began = time.monotonic()
    lowered = lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _too_large(str(error)) from None
    seconds = time.monotonic() - began
    found: Any = compiled.memory_analysis()
    memory = Memory(
        found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes,
        found.temp_size_in_bytes,
        found.generated_code_size_in_bytes,
    )
    if machine.platform == "gpu" and machine.chip is not None:
        available = _GPU_MEMORY * machine.chip.memory
        if memory.total > available:
            raise DoesNotFitError(memory.total, available)
    text = compiled.as_text() or ""
    program = read_program(text)
    return Compiled(
        text,
        program,
        memory,
        estimate(program, machine, flops=flops, width=width),
        seconds,
        **facts,
    )


def _too_large(message: str) -> DoesNotFitError:
    """Reads the sizes from either of the TPU compiler's messages.

    >>> _too_large("Used 29.77G of 15.75G hbm. Exceeded").available / 2**30
    15.75
    >>> _too_large("for HLO temporaries (23.30G) exceeds available HBM (15.75G).").needed / 2**30
    23.3
    """
    for pattern in (r"Used ([\d.]+)G of ([\d.]+)G hbm", r"\(([\d.]+)G\) exceeds .*\(([\d.]+)G\)"):
        if found := re.search(pattern, message):
            needed, available = (float(size) * 2**30 for size in found.groups())
            return DoesNotFitError(needed, available)
    return DoesNotFitError(None, None)
