"""Tests the names of machines, and that the compilers know them."""

import json
import subprocess
import sys

import pytest

from selfdistill_jax.errors import InputError
from selfdistill_jax.plan import machines
from tests.compilers import needs_cuda, needs_libtpu

OPEN = """
import json
from selfdistill_jax.plan.machines import SHAPES, open_gpus, open_tpu, prepare

prepare()
found = {}
for kind in SHAPES:
    for chips, shape in SHAPES[kind].items():
        if (kind, shape) != ("tpu7x", "8x8x8"):
            machine = open_tpu(f"{kind}:{shape}")
            found[machine.name] = [chips, machine.chips, len(machine.devices), machine.chip is None]
machine = open_tpu("v5e-4", slices=2)
found[machine.name] = [8, machine.chips, len(machine.devices), machine.chip is None]
print(json.dumps(found))
"""
GPUS = """
from selfdistill_jax.plan.machines import open_gpus, prepare

prepare()
for name in ("h100", "h100:8", "h100:16"):
    machine = open_gpus(name)
    print(machine.chips, machine.hosts, machine.platform)
"""


def output(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@needs_libtpu
def test_the_compiler_knows_every_shape_with_as_many_chips():
    found = json.loads(output(OPEN).stdout)
    assert len(found) > 25
    for name, (expected, chips, devices, without_figures) in found.items():
        assert chips == expected, name
        # A chip of tpu7x has two devices, and its figures are not listed.
        new = name.startswith("tpu7x")
        assert (devices, without_figures) == (chips * (2 if new else 1), new), name


@needs_cuda
def test_gpus_are_opened_without_a_word_about_the_missing_gpu():
    done = output(GPUS)
    assert done.stdout.split("\n")[:3] == ["1 1 gpu", "8 1 gpu", "16 2 gpu"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "expected one of v5e-1, v5e-4"),
        ("v5e-5", "expected one of v5e-1, v5e-4"),
        ("v5p-6", "expected one of v5p-8"),
        ("v5x-8", "unknown kind; expected one of v5e, .* did you mean"),
        ("v5e:2", "expected one of v5e-1"),
        ("", "unknown kind"),
    ],
)
def test_an_unknown_slice_is_refused_with_the_known_ones(name, message):
    with pytest.raises(InputError, match=message):
        machines.open_tpu(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("h1000:8", "did you mean 'h100'"), ("h100:9", "multiple of 8"), ("h100:x", "1 to 8 GPUs")],
)
def test_unknown_gpus_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        machines.open_gpus(name)


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setattr(machines.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(machines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps --target \S+/tpu 'libtpu==0.0"):
        machines.open_tpu("v5e-8")
    with pytest.raises(InputError, match=r"'jax-cuda12-plugin<=.*' 'jax-cuda12-pjrt<=.*' 'nvidia"):
        machines.open_gpus("h100")
