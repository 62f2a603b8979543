"""Tests what `read_program` finds in small programs, written by hand and compiled here."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from selfdistill_jax.plan.program import Exchange, Kernel, read_program

TPU = Path(__file__).with_name("loop.hlo").read_text()


def test_what_a_loop_does_counts_as_often_as_it_runs():
    program = read_program(TPU)
    assert program.loops == (12,)
    assert program.cycles == 12 * 150
    assert program.exchanges == (
        Exchange("all-reduce", 400, 12),
        Exchange("all-gather", 16 * 8 * 4, 1),
    )
    assert program.kernels == (Kernel("row_attention", 5, 256, 12),)
    assert (program.conditionals, program.host_calls, program.slice_bytes) == (0, 0, 0)


def test_traffic_has_only_the_parts_of_arrays_that_are_read_and_written():
    layer, gathered = 2 * 64 * 128, 4 * (4 + 16) * 8
    # A layer is read and another written; values in the chip's memory (S(1)) do not count.
    assert read_program(TPU).traffic == 12 * 2 * layer + gathered


@pytest.mark.parametrize(
    ("add", "field"),
    [
        ("  %c = f32[] conditional(%x), branch_computations={%a, %b}", "conditionals"),
        ("  %c = token[] outfeed(%x, %y)", "host_calls"),
        ('  %c = f32[] custom-call(%x), custom_call_target="xla_ffi_python_cpu_callback"',
         "host_calls"),
        ("  %c = (f32[100]{0}, u32[], token[]) send(%x, %y), channel_id=1", "slice_bytes"),
    ],
)  # fmt: skip
def test_branches_calls_of_the_host_and_sends_are_seen(add, field):
    head, entry = TPU.split("ENTRY")
    changed = f"{head}ENTRY{entry.replace('  %zero', add + chr(10) + '  %zero')}"
    assert getattr(read_program(changed), field) >= 1


def test_a_program_compiled_here_is_read():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    text = jax.jit(layers).lower(shape(64, 128), shape(12, 128, 128)).compile().as_text()
    program = read_program(text)
    assert program.loops == (12,)
    weights = 4 * 12 * 128 * 128
    assert weights < program.traffic < 10 * weights
