"""Tests the command, the search for settings that fit, and the estimates."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from selfdistill_jax.plan import compile as compile_module
from selfdistill_jax.plan import fit
from selfdistill_jax.plan.compile import DoesNotFitError
from selfdistill_jax.plan.encoders import ENCODERS, shapes_of
from selfdistill_jax.plan.estimate import estimate
from selfdistill_jax.plan.machines import Chip, Machine
from selfdistill_jax.plan.program import Exchange, Kernel, Program
from selfdistill_jax.plan.workload import drawn_texts
from selfdistill_jax.train.job import make_job
from tests.compilers import needs_cuda, needs_libtpu


def plan(*arguments):
    command = [sys.executable, "-m", "selfdistill_jax.plan", "--config=configs/distributed.py"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@needs_libtpu
def test_a_plan_has_memory_exchanges_estimates_and_money(tiny):
    done = plan(
        *tiny.flags(train__steps=1000), "--topology=v5e:2x2", "--passages=1000000", "--price=2",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["machine"] == {
        "name": "v5e:2x2", "chip": "TPU v5 lite", "chips": 4, "devices": 4, "hosts": 1, "slices": 1
    }  # fmt: skip
    assert found["tried"] == [
        {"changes": {}, "fits": True, "needed_bytes": None, "available_bytes": None}
    ]
    step, encoding, run = found["step"], found["encoding"], found["run"]
    assert (step["batch_size"], step["host_calls"], step["conditionals"]) == (8, 0, 0)
    sizes = [x.size for x in load_file(tiny.encoder / "model.safetensors").values()]
    assert step["memory_bytes"]["total"] == sum(
        step["memory_bytes"][key] for key in ("arguments", "temporaries", "code")
    )
    gradient = sum(e["bytes"] for e in step["exchanges"] if e["kind"] == "all-reduce")
    assert 4 * sum(sizes) <= gradient < 4 * sum(sizes) + 5000
    low, high = run["hours"]
    assert 0 < low < high
    # Four chips at two dollars an hour.
    np.testing.assert_allclose(run["dollars"], [8 * low, 8 * high])
    seconds = [step["batch_size"] / x for x in reversed(step["examples_per_second"])]
    np.testing.assert_allclose(run["hours"], [1000 * s / 3600 for s in seconds])
    assert encoding["passages"] == 1_000_000
    tokens = encoding["useful_tokens"] / encoding["documents"] * 1_000_000
    least = tokens / encoding["tokens_per_second_and_device"][1] / 4 / 3600
    np.testing.assert_allclose(encoding["hours"][0], least)


@needs_cuda
def test_a_plan_for_gpus_is_readable(tiny):
    done = plan(*tiny.flags(), "--gpu=h100:2")
    assert done.returncode == 0, done.stderr
    for expected in (
        " of 79 GiB on each device: ",
        "Plan for 2 × H100: 2 chips (NVIDIA H100 80GB HBM3), 1 host. Nothing was run there.",
        "  batch           8 examples; on each device ",
        "  host            no calls, no conditionals",
        " ms (estimate), ",
    ):
        assert expected in done.stdout
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --topology=v5e:2x4 (for example) or --gpu=h100:8"),
        (["--topology=v5e-8", "--gpu=h100"], "give either --topology"),
        (["--gpu=h100:8", "--slices=2"], "--slices=2 is for TPUs"),
        (["--topology=v5e-8", "--lengths=8"], "--lengths=8: expected two numbers of tokens"),
        (["--topology=v5e-8", "--lengths=8,x"], "--lengths=8,x: expected two numbers"),
        (["--topology=v5e-8", "--lengths=8,nan"], "--lengths=8,nan: expected two numbers"),
        (["--topology=v5e-8", "--encoder=bert"], "--encoder=bert: unknown; expected one of minilm"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(flags, message):
    done = plan(*flags)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")


@needs_libtpu
def test_settings_are_tried_until_the_step_fits():
    done = subprocess.run(
        [sys.executable, "-m", "tests.plan.fit_run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    plain, inputs, sharded = json.loads(done.stdout.splitlines()[-1])
    # Four float32 arrays of the table's size are needed at least, of 15.75 GiB.
    table = 4 * 9_000_000 * 128
    for changes, fits, needed, available in (plain, inputs):
        assert not fits
        assert needed > 3.5 * table
        assert available == 15.75 * 2**30
        assert changes in ({}, {"train.remat": "inputs"})
    assert sharded == [{"train.fsdp": 4}, True, None, None]


def test_cheap_settings_are_tried_first_and_only_those_that_the_batch_allows(monkeypatch):
    def run(fits, train, devices=4, slices=2):
        def compile_step(plan, machine):
            if not fits(plan.changes):
                raise DoesNotFitError(2.0, 1.0)
            return "compiled"

        def make(changes, first):
            return SimpleNamespace(job=SimpleNamespace(settings={"train": train}), changes=changes)

        monkeypatch.setattr(fit, "compile_step", compile_step)
        machine = SimpleNamespace(devices=range(devices), slices=slices)
        return [trial.changes for trial in fit.compile_until_it_fits(make, machine)]

    train = {"micro_batches": 1, "batch_size": 64, "remat": "products", "fsdp": 1}
    micro, inputs, fsdp = "train.micro_batches", {"train.remat": "inputs"}, {"train.fsdp": 2}
    assert run(lambda changes: not changes, train) == [{}]
    assert run(lambda changes: False, train) == [
        {}, {micro: 2}, {micro: 4}, inputs, {micro: 8}, {micro: 16}, fsdp, fsdp | {micro: 16},
        fsdp | {micro: 16} | inputs,
    ]  # fmt: skip
    assert run(lambda changes: changes == fsdp, train | {"batch_size": 8, "remat": "inputs"}) == [
        {}, {micro: 2}, fsdp
    ]  # fmt: skip
    assert run(lambda changes: False, train | {"batch_size": 4, "fsdp": 2}) == [{}, inputs]
    # No settings are tried twice.
    assert run(lambda changes: False, train | {"batch_size": 16, "remat": "inputs"}) == [
        {}, {micro: 2}, {micro: 4}, fsdp, fsdp | {micro: 4}
    ]  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_have_the_known_numbers_of_parameters(name):
    millions = {
        "minilm": 22.6, "bert-base": 108.9, "bert-large": 334.1, "distilbert": 66.4, "mpnet": 108.9,
        "modernbert": 149.0,
    }[name]  # fmt: skip
    total = sum(x.size for x in jax.tree.leaves(shapes_of(name).params))
    assert round(total / 1e6, 1) == millions


def test_lengths_are_drawn_with_the_given_means(tiny):
    texts = drawn_texts(make_job(tiny.config()).data, query=9, document=70)
    assert abs(texts.queries.lengths(10_000).mean() - 9) < 0.3
    assert abs(texts.documents.lengths(10_000).mean() - 70) < 1.5


def machine(**changed):
    device = SimpleNamespace(platform="tpu", process_index=0)
    chip = Chip(flops=100.0, bandwidth=10.0, ring=5.0, memory=1.0, clock=2.0)
    return Machine("m", "chip", [device] * 4, 4, 1, chip)._replace(**changed)


def program(**changed):
    return Program((), (), 0, 0, 0, (), cycles=0.0, traffic=0.0)._replace(**changed)


def test_estimates_follow_their_definitions():
    found = estimate(program(cycles=40.0, traffic=30.0), machine(), flops=700.0, width=768)
    assert (found.products, found.traffic, found.least, found.most) == (7.0, 3.0, 7.0, 20.0)
    exchanges = Exchange("all-reduce", 10, 2), Exchange("all-gather", 10, 1)
    found = estimate(program(exchanges=exchanges), machine(), flops=0.0, width=768)
    # On a ring of 4, three quarters of each byte of a sum pass twice, of a gather once.
    np.testing.assert_allclose(found.exchanges, (2 * 2 + 1) * 10 * 0.75 / 5)
    kernels = (Kernel("row_attention_backward", rows=3, length=256, times=12),)
    found = estimate(program(kernels=kernels), machine(), flops=0.0, width=384)
    np.testing.assert_allclose(found.most, 12 * 3 * 9683 / 2 / 2.0)
    gpus = machine(devices=[SimpleNamespace(platform="gpu", process_index=0)])
    found = estimate(program(traffic=30.0), gpus, flops=10.0, width=1)
    np.testing.assert_allclose([found.least, found.most], [3.0, 10.0])
    assert estimate(program(), machine(chip=None), flops=1.0, width=1) is None


def test_a_program_for_gpus_is_checked_against_their_memory():
    """The compiler for GPUs accepts a program of any size."""
    shape = jax.ShapeDtypeStruct((64, 64), np.float32)
    lowered = jax.jit(lambda x: x @ x).lower(shape)
    facts = {"rows": 1, "row_length": 1, "useful_tokens": 1.0, "useful_flops": 1.0}
    gpus = machine(devices=[SimpleNamespace(platform="gpu", process_index=0)])
    needed = 2 * 64 * 64 * 4  # argument and result, in 92 % of the memory
    for memory, fits in ((needed / 0.92 + 1000, True), (needed / 0.92 - 1000, False)):
        chip = gpus.chip._replace(memory=memory)
        options = {"flops": 1.0, "width": 1, **facts}
        if fits:
            found = compile_module._compile(lambda: lowered, gpus._replace(chip=chip), **options)
            assert found.memory.total == needed
        else:
            with pytest.raises(DoesNotFitError):
                compile_module._compile(lambda: lowered, gpus._replace(chip=chip), **options)


def test_other_errors_of_the_compiler_are_not_taken_for_a_lack_of_memory():
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: no tile sizes")

    with pytest.raises(jax.errors.JaxRuntimeError, match="tile sizes"):
        compile_module._compile(Lowered, machine(), flops=1.0, width=1)
