"""Tests the step as the compilers for TPUs and GPUs compile it (`make tpu gpu` installs them)."""

import jax
import pytest

from selfdistill_jax.train import mesh
from tests.compilers import needs_cuda, needs_libtpu
from tests.train.compiled_step import KINDS, LAYERS, SIZE, TRIPLETS, run


@needs_libtpu
@pytest.mark.parametrize(("topology", "devices"), [("v5e:2x2", 4), ("v5e:4x4", 16)])
def test_a_step_has_no_host_calls_and_only_the_exchanges_that_the_docs_promise(topology, devices):
    facts = run(topology)
    assert (facts["devices"], facts["hosts"]) == (devices, devices // 4)
    assert facts["slice_bytes"] == 0
    assert facts["kernels"] == 2  # in the loops over layers, forwards and backwards
    assert facts["arrays_of_scores"] == 0
    check_control_flow(facts)
    check_exchanges(facts)


@needs_cuda
def test_a_step_on_gpus_has_no_host_calls_and_the_same_exchanges():
    facts = run("h100:4")
    assert facts["devices"] == 4
    check_control_flow(facts)
    check_exchanges(facts)


def check_control_flow(facts):
    assert (facts["conditionals"], facts["loops"], facts["host"]) == (0, [LAYERS, LAYERS], 0)


def check_exchanges(facts):
    # The gradient once; the loss, the metrics and the share of the vectors' gradient are small.
    vectors, small = 4 * TRIPLETS * SIZE, 16 * 4 * TRIPLETS
    gradient = facts["parameter_bytes"]
    assert gradient <= sum(facts["all-reduce"]) <= gradient + vectors + small
    assert vectors <= sum(facts["all-gather"]) <= vectors + small
    assert sum(facts["reduce-scatter"]) <= vectors
    assert not facts["all-to-all"] + facts["collective-permute"]


@needs_libtpu
def test_slices_exchange_through_their_hosts():
    facts = run("v5e:2x2", slices=2)
    assert facts["devices"] == 8
    assert facts["kernels"] == 2
    check_control_flow(facts)
    # The gradient is summed within each slice in parts, and the parts between the slices: each
    # chip of 4 sends a quarter, and small arrays.
    gradient = facts["parameter_bytes"]
    assert gradient < sum(sum(facts[kind]) for kind in KINDS) < 2 * gradient
    assert gradient / 4 < facts["slice_bytes"] < gradient / 2


@needs_libtpu
def test_the_facts_show_scores_in_memory():
    """Plain attention has arrays of scores for each head; the test above would fail."""
    facts = run("v5e:2x2", attention="own")
    assert facts["kernels"] == 0
    assert facts["arrays_of_scores"] > 0


class Device:
    """A device of a slice, with what `mesh_utils` reads."""

    platform, device_kind = "cpu", "cpu"

    def __init__(self, number: int, slice_index: int):
        self.id, self.process_index, self.slice_index = number, slice_index, slice_index


def test_slices_lie_along_the_data_axis(monkeypatch):
    devices = [Device(i, i // 4) for i in range(8)]
    monkeypatch.setattr(jax.sharding, "Mesh", lambda array, *_, **__: array)
    found = mesh.make_mesh(devices, fsdp=2)
    assert found.shape == (4, 2)
    assert [[d.slice_index for d in row] for row in found] == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(mesh.InputError, match="a divisor of the 4 devices of each of 2 slices"):
        mesh.make_mesh(devices, fsdp=8)
